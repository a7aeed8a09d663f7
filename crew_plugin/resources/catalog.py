"""What a project has to choose from, and what was left out and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crew_plugin.errors import CallerError, InvalidPlan, NotAllowed, UnknownName
from crew_plugin.resources.files import Stamp
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

__all__ = ["Catalog", "Hidden", "Reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """A resource that was read and cannot be used, with the reason."""

    kind: Kind
    name: str
    path: Path
    source: Source
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one file gave when it was read last."""

    stamps: Mapping[Path, Stamp]
    """Of the file and of those that belong to it."""
    resource: Resource | None
    problem: Problem | None
    notices: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The agents, teams, workflows and skills that can be used, by name."""

    agents: Mapping[str, AgentFile]
    teams: Mapping[str, TeamFile]
    workflows: Mapping[str, WorkflowFile]
    skills: Mapping[str, SkillFile]
    hidden: tuple[Hidden, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Files that could not be used at all."""
    notices: tuple[Problem, ...] = ()
    """What the author of a file that is used should know."""
    readings: Mapping[Path, Reading] = field(default_factory=dict[Path, Reading], repr=False)
    """Lets the next `discover` read only what changed."""

    def of(self, kind: Kind) -> Mapping[str, Resource]:
        """Everything of one kind, by name."""
        return {
            Kind.AGENT: self.agents,
            Kind.TEAM: self.teams,
            Kind.WORKFLOW: self.workflows,
            Kind.SKILL: self.skills,
        }[kind]

    def missing(self, kind: Kind, name: str) -> CallerError:
        """The error to raise for a name that is not there: it says whether the file is broken,
        disabled or shadowed, else which names are near."""
        broken = [problem for problem in self._broken(kind) if _stem(problem.path, kind) == name]
        if broken:
            return InvalidPlan(f"{kind} {name!r}", [str(problem) for problem in broken])
        for item in self.hidden:
            if item.kind is kind and item.name == name:
                return NotAllowed(f"{kind} {name!r} ({item.path}) cannot be used: {item.reason}")
        others = [other for other in Kind if name in self.of(other)]
        note = (
            f"there is {'an' if others[0] is Kind.AGENT else 'a'} {others[0]} of this name" if others else ""
        )
        return UnknownName(kind, name, self.of(kind), note=note)

    def _broken(self, kind: Kind) -> Iterator[Problem]:
        for problem in self.problems:
            if kind.folder in (problem.path.parent.name, problem.path.parent.parent.name):
                yield problem


def _stem(path: Path, kind: Kind) -> str:
    return path.parent.name if kind is Kind.SKILL else path.name.split(".")[0]
