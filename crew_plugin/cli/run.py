"""`run`: plan, run in this process, show, answer."""

import json as json_module
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from crew_plugin.cli.detach import start_and_leave
from crew_plugin.cli.place import Place
from crew_plugin.cli.supervise import Errand, supervise
from crew_plugin.config import load_settings
from crew_plugin.errors import InvalidValue
from crew_plugin.resources import Catalog

if TYPE_CHECKING:
    from crew_plugin.engine.plan import WantedResult
    from crew_plugin.models.spec import RunSpec, RuntimeMode
    from crew_plugin.resources.models import OnFailure

__all__ = ["run"]


def run(
    *,
    place: Place,
    json: bool,
    words: list[str],
    workflow: str | None,
    agent: str | None,
    model: str | None,
    width: int | None,
    on_failure: str | None,
    schema: str | None,
    schema_mode: str | None,
    cwd: str | None,
    dry_run: bool,
    runtime: str | None,
    detach: bool,
    quiet: bool,
) -> int:
    """Run a team or an agent on a goal."""
    if width is not None and width < 1:
        raise InvalidValue("--width", width, "at least 1")
    if model is not None and not model.strip():
        raise InvalidValue("--model", model, "a model's name")
    team, goal = _team_and_goal(words, agent)
    wanted = _wanted(schema, schema_mode)
    folder = _folder(cwd)
    place = replace(place, start=folder)
    project = place.find()
    settings = load_settings(project.root)
    mode = _mode(runtime, dry_run=dry_run)
    policy = _policy(on_failure)

    def plan(catalog: Catalog) -> "RunSpec":
        from crew_plugin.engine.plan import plan_run

        if team is None and agent is None and goal in catalog.teams:
            raise InvalidValue("GOAL", goal, f'a sentence that says what to do: crew run {goal} "..."')
        return plan_run(
            catalog,
            settings,
            goal=goal,
            cwd=folder or _work_folder(place, project_root=str(project.root)),
            team=team,
            workflow=workflow,
            agent=agent,
            model=model,
            width=width,
            runtime=mode,
            on_failure=policy,
            result=wanted,
        )

    asks_model = (mode or settings.runtime.mode) != "scaffold"
    if detach:
        return start_and_leave(place, project, settings, plan, asks_model=asks_model, json=json)
    return supervise(
        Errand(
            place=place,
            project=project,
            settings=settings,
            plan=plan,
            asks_model=asks_model,
            json=json,
            quiet=quiet,
        )
    )


def _mode(runtime: str | None, *, dry_run: bool) -> "RuntimeMode | None":
    """What the two options together ask for; None leaves it to the settings."""
    from crew_plugin.models.spec import RuntimeMode

    modes: dict[str, RuntimeMode] = {mode: mode for mode in get_args(RuntimeMode)}
    if runtime is not None and runtime not in modes:
        raise InvalidValue("--runtime", runtime, modes)
    if dry_run and runtime not in (None, "scaffold"):
        raise InvalidValue("--runtime", runtime, "scaffold, or left out, with --dry-run")
    return "scaffold" if dry_run else modes[runtime] if runtime else None


def _policy(word: str | None) -> "OnFailure | None":
    """What a failure does to the other tasks; None leaves it to the files and the settings."""
    from crew_plugin.resources.keys import ON_FAILURE

    known: dict[str, OnFailure] = {policy: policy for policy in ON_FAILURE}
    if word is not None and word not in known:
        raise InvalidValue("--on-failure", word, known)
    return None if word is None else known[word]


def _wanted(schema: str | None, mode: str | None) -> "WantedResult":
    """What is asked of results."""
    from crew_plugin.engine.plan import WantedResult
    from crew_plugin.models.spec import SchemaMode

    modes: dict[str, SchemaMode] = {each: each for each in get_args(SchemaMode)}
    if mode is not None and mode not in modes:
        raise InvalidValue("--schema-mode", mode, modes)
    return WantedResult(
        schema=None if schema is None else _schema(schema), mode=None if mode is None else modes[mode]
    )


def _schema(given: str) -> dict[str, Any]:
    """The schema that was typed, or stands in the file that was named."""
    text, where = given, "it"
    if not given.lstrip().startswith("{"):
        where = given
        try:
            text = Path(given).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InvalidValue("--schema", given, f"a file, or a JSON object ({reason})") from error
    try:
        loaded: object = json_module.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue("--schema", given, f"JSON; {where} is not: {error}") from error
    if not isinstance(loaded, dict):
        raise InvalidValue("--schema", given, f"a JSON object, and {where} is none")
    return cast("dict[str, Any]", loaded)


def _team_and_goal(words: list[str], agent: str | None) -> tuple[str | None, str]:
    """One word is the goal; of several, the first is the team unless an agent was named."""
    team = None
    if agent is None and len(words) > 1:
        team, words = words[0], words[1:]
    goal = sys.stdin.read() if words == ["-"] else " ".join(words)
    if not goal.strip():
        raise InvalidValue("GOAL", goal, 'some text: crew run review "what to look at"')
    if any("\ud800" <= character <= "\udfff" for character in goal):
        # Python's stand-ins for bytes that are no text: neither a store nor a model can take them.
        raise InvalidValue("GOAL", goal, "text in UTF-8")
    return team, goal


def _folder(cwd: str | None) -> str | None:
    """The folder that was named, as a path that means the same from everywhere."""
    if cwd is None:
        return None
    folder = Path(cwd).expanduser().resolve()
    if not folder.is_dir():
        raise InvalidValue("--cwd", cwd, "an existing folder")
    return str(folder)


def _work_folder(place: Place, *, project_root: str) -> str:
    """Where one stands, unless another project was named."""
    return project_root if place.project is not None else os.getcwd()
