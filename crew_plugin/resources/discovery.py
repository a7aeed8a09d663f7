"""Finding resources, and deciding whose wins.

A name is taken once, by the first of: the user's, the builtin, the project's. A project can so
only add names, unless the user's settings trust it: then the project comes first. A name that
was ever taken stays reserved from a project that is not trusted, also if its owner is disabled
or broken, and however it is capitalised: nothing untrusted comes in a trusted one's place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from crew_plugin.bundle import bundle_root
from crew_plugin.project import CREW_DIR
from crew_plugin.resources.agentfile import parse_agent, parse_skill
from crew_plugin.resources.catalog import Catalog, Hidden, Reading
from crew_plugin.resources.files import read_text, stamp
from crew_plugin.resources.keys import Notes, Place, is_name
from crew_plugin.resources.models import (
    AgentFile,
    Kind,
    Problem,
    Resource,
    SkillFile,
    Source,
    TeamFile,
    WorkflowFile,
)
from crew_plugin.resources.places import CONFIG_FILE, user_folder
from crew_plugin.resources.teamfile import parse_team
from crew_plugin.resources.workflowfile import parse_workflow
from crew_plugin.resources.yamltext import BadText

if TYPE_CHECKING:
    from crew_plugin.config.settings import AgentOverride, Settings

__all__ = ["discover", "is_trusted"]

_PARSERS: Final[Mapping[Kind, Callable[[str, Notes], Resource]]] = {
    Kind.AGENT: parse_agent,
    Kind.TEAM: parse_team,
    Kind.WORKFLOW: parse_workflow,
    Kind.SKILL: parse_skill,
}
_SUFFIX: Final = {Kind.AGENT: ".md", Kind.TEAM: ".team.md", Kind.WORKFLOW: ".workflow.md"}
_MAX_FILES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One place that resources come from."""

    source: Source
    root: Path
    trusted: bool
    inside: Path | None = None
    """The folder that its folders may not lead out of."""


@dataclass(slots=True, kw_only=True)
class _Found:
    """What has been gathered so far."""

    before: Mapping[Path, Reading]
    taken: dict[Kind, dict[str, Resource]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    owners: dict[tuple[Kind, str], Source] = field(default_factory=dict[tuple[Kind, str], Source])
    """Whose a name, in lower case, is, whether or not it can be used."""
    reserved: dict[tuple[Kind, str], Source] = field(default_factory=dict[tuple[Kind, str], Source])
    """Names of broken files that others than an untrusted project may take."""
    hidden: list[Hidden] = field(default_factory=list[Hidden])
    problems: list[Problem] = field(default_factory=list[Problem])
    notices: list[Problem] = field(default_factory=list[Problem])
    readings: dict[Path, Reading] = field(default_factory=dict[Path, Reading])

    def hide(self, kind: Kind, resource: Resource, reason: str) -> None:
        self.hidden.append(
            Hidden(kind=kind, name=resource.name, path=resource.path, source=resource.source, reason=reason)
        )


def is_trusted(project_root: Path, settings: "Settings") -> bool:
    """Whether the user's settings name this project as trusted."""
    root = project_root.resolve()
    return any(Path(item).expanduser().resolve() == root for item in settings.trusted_projects)


def discover(
    project_root: Path | None,
    settings: "Settings",
    *,
    user_root: Path | None = None,
    previous: Catalog | None = None,
) -> Catalog:
    """All resources of bundle, user and project. Broken ones are in `problems`, never raised.

    Blocking: call it off an event loop. With `previous`, only files that changed are read.
    """
    found = _Found(before=previous.readings if previous else {})
    for layer in _layers(project_root, settings, user_root or user_folder()):
        for kind in Kind:
            for path in _candidates(layer, kind, found):
                _take(kind, _read(kind, path, layer, found), layer, settings, found)
    _note_unused_overrides(settings, found, user_root or user_folder())
    return Catalog(
        agents=cast("dict[str, AgentFile]", found.taken[Kind.AGENT]),
        teams=cast("dict[str, TeamFile]", found.taken[Kind.TEAM]),
        workflows=cast("dict[str, WorkflowFile]", found.taken[Kind.WORKFLOW]),
        skills=cast("dict[str, SkillFile]", found.taken[Kind.SKILL]),
        hidden=tuple(found.hidden),
        problems=tuple(found.problems),
        notices=tuple(found.notices),
        readings=found.readings,
    )


def _layers(project_root: Path | None, settings: "Settings", user_root: Path) -> list[_Layer]:
    layers = [
        _Layer(source=Source.USER, root=user_root, trusted=True),
        _Layer(source=Source.BUILTIN, root=Path(str(bundle_root())), trusted=True),
    ]
    if project_root is not None:
        trusted = is_trusted(project_root, settings)
        project = _Layer(
            source=Source.PROJECT,
            root=project_root / CREW_DIR,
            trusted=trusted,
            inside=project_root.resolve(),
        )
        layers.insert(0 if trusted else len(layers), project)
    return layers


def _candidates(layer: _Layer, kind: Kind, found: _Found) -> Iterator[Path]:
    """The files of one folder that should hold a resource, in the order of their names."""
    folder = layer.root / kind.folder
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        found.problems.append(Problem(path=folder, line=0, message=f"cannot be listed: {error.strerror}"))
        return
    if layer.inside and not folder.resolve().is_relative_to(layer.inside):
        found.problems.append(Problem(path=folder, line=0, message=f"leads out of {layer.inside}"))
        return
    files = [path for entry in entries if (path := _candidate(entry, kind, found))]
    if len(files) > _MAX_FILES:
        message = f"has {len(files)} files; only the first {_MAX_FILES} are read"
        found.problems.append(Problem(path=folder, line=0, message=message))
    yield from files[:_MAX_FILES]


def _candidate(entry: Path, kind: Kind, found: _Found) -> Path | None:
    name = entry.name
    if name.startswith(".") or name.lower() in ("readme.md", "readme"):
        return None
    if kind is Kind.SKILL:
        return entry / "SKILL.md" if entry.is_dir() else None
    if name.endswith(_SUFFIX[kind]):
        return entry
    if name.endswith(".md"):
        message = f"is not read: the file of a {kind} is called <name>{_SUFFIX[kind]}"
        found.notices.append(Problem(path=entry, line=0, message=message))
    return None


def _read(kind: Kind, path: Path, layer: _Layer, found: _Found) -> Reading:
    """What the file holds; not read again if nothing about it changed."""
    known = found.before.get(path)
    if known and all(stamp(file) == was for file, was in known.stamps.items()) and _same(known, layer):
        reading = known
    else:
        reading = _read_now(kind, path, layer)
    found.readings[path] = reading
    found.notices += reading.notices
    if reading.problem:
        found.problems.append(reading.problem)
    return reading


def _same(reading: Reading, layer: _Layer) -> bool:
    resource = reading.resource
    return resource is None or (resource.source is layer.source and resource.trusted == layer.trusted)


def _read_now(kind: Kind, path: Path, layer: _Layer) -> Reading:
    before = stamp(path)
    root = (layer.root / kind.folder).resolve()
    notes = Notes(place=Place(path=path, root=root, source=layer.source, trusted=layer.trusted))
    resource: Resource | None = None
    problem: Problem | None = None
    try:
        if not is_name(_stem(kind, path)):
            raise BadText(
                f"{_stem(kind, path)!r} cannot be a name: letters, digits, '-' and '_', at most 80", 0
            )
        resource = _PARSERS[kind](read_text(path, root), notes)
    except BadText as error:
        problem = Problem(path=path, line=error.line, message=error.message)
    stamps = {path: before} | {file: stamp(file) for file in notes.files}
    return Reading(stamps=stamps, resource=resource, problem=problem, notices=tuple(notes.notices))


def _stem(kind: Kind, path: Path) -> str:
    return path.parent.name if kind is Kind.SKILL else path.name.removesuffix(_SUFFIX[kind])


def _take(kind: Kind, reading: Reading, layer: _Layer, settings: "Settings", found: _Found) -> None:
    """Give the resource its name, or say why it cannot have it."""
    resource = reading.resource
    if resource is None:
        path = next(iter(reading.stamps))
        found.reserved.setdefault((kind, _stem(kind, path).casefold()), layer.source)
        return
    key = (kind, resource.name.casefold())
    owner = found.owners.get(key) or (None if layer.trusted else _trusted_reserver(key, found))
    if owner is not None:
        found.hide(kind, resource, _why_hidden(owner, layer))
        return
    found.owners[key] = layer.source
    if isinstance(resource, AgentFile):
        resource, reason = _with_settings(resource, settings)
        if reason:
            found.hide(kind, resource, reason)
            return
    found.taken[kind][resource.name] = resource


def _trusted_reserver(key: tuple[Kind, str], found: _Found) -> Source | None:
    source = found.reserved.get(key)
    return None if source is Source.PROJECT else source


def _why_hidden(owner: Source, layer: _Layer) -> str:
    if owner is layer.source:
        return f"another {owner} file has the same name"
    if layer.source is Source.PROJECT:
        return f"the name belongs to a {owner} one, and this project is not in the user's trusted_projects"
    return f"the {owner}'s file of this name comes first"


def _with_settings(agent: AgentFile, settings: "Settings") -> tuple[AgentFile, str]:
    """The agent as the user's settings want it, or the reason why it is out of use."""
    override = _override(agent.name, settings)
    if agent.disabled:
        return agent, "it is disabled in its file"
    if agent.source is Source.BUILTIN and settings.agents.disable_builtins:
        return agent, "builtin agents are disabled by the setting agents.disable_builtins"
    if override is None:
        return agent, ""
    if override.disabled:
        return agent, f"it is disabled by the setting agents.overrides.{agent.name}"
    if override.model is not None:
        agent = replace(agent, model=override.model or None)
    if override.tools is not None:
        agent = replace(agent, tools=override.tools or ())
    if override.deny_tools:
        agent = replace(agent, deny_tools=(*agent.deny_tools, *override.deny_tools))
    if override.skills is not None:
        agent = replace(agent, skills=override.skills or ())
    return agent, ""


def _override(name: str, settings: "Settings") -> "AgentOverride | None":
    wanted = name.casefold()
    return next((item for key, item in settings.agents.overrides.items() if key.casefold() == wanted), None)


def _note_unused_overrides(settings: "Settings", found: _Found, user_root: Path) -> None:
    for name in settings.agents.overrides:
        if (Kind.AGENT, name.casefold()) not in found.owners:
            message = f"agents.overrides.{name}: there is no agent of this name"
            found.notices.append(Problem(path=user_root / CONFIG_FILE, line=0, message=message))
