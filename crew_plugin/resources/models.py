"""What a resource file says: agents, teams, workflows and skills as frozen records.

Plain dataclasses, so that listing resources needs no pydantic. Where a record came from
(`source`, `path`, `line`, `trusted`) is no part of what it says, and not compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from crew_plugin.resources.yamltext import Json

if TYPE_CHECKING:
    from crew_plugin.models.spec import AgentSpec, LimitsSpec, McpServerSpec

__all__ = [
    "AgentFile",
    "Attention",
    "Kind",
    "LimitsPart",
    "McpServer",
    "OnFailure",
    "Problem",
    "Resource",
    "ResultSchema",
    "Role",
    "SchemaForm",
    "SchemaMode",
    "SkillFile",
    "Skills",
    "Source",
    "Step",
    "TeamFile",
    "WorkflowFile",
]

type SchemaMode = Literal["permissive", "strict"]
type SchemaForm = Literal["auto", "json-schema", "jtd"]
type Attention = Literal["skip", "pass"]
type OnFailure = Literal["keep-going", "fail-fast"]
"""What a failed task does to the others of its run."""
type Skills = tuple[str, ...] | Literal[False] | None
"""Names of skills; False for none at all; None for what the next one up says."""


class Kind(StrEnum):
    """The kinds of resources."""

    AGENT = "agent"
    TEAM = "team"
    WORKFLOW = "workflow"
    SKILL = "skill"

    @property
    def folder(self) -> str:
        """The folder that holds them."""
        return self.value + "s"


class Source(StrEnum):
    """Whose a resource is."""

    BUILTIN = "builtin"
    """Comes with crew-plugin."""
    USER = "user"
    """From the user's configuration folder."""
    PROJECT = "project"
    """From the project's `.crew/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something about a file that its author should know."""

    path: Path
    line: int
    """0 for the file as a whole."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}" if self.line else f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsPart:
    """The limits that a file sets; None for those it leaves to the settings."""

    steps: int | None = None
    requests: int | None = None
    stuck_steps: int | None = None
    idle_seconds: float | None = None
    tool_seconds: float | None = None
    turn_seconds: float | None = None
    wall_seconds: float | None = None
    model_retries: int | None = None
    attempts: int | None = None

    def over(self, base: "LimitsSpec", *, tighten: bool) -> "LimitsSpec":
        """`base` with these in their place; with `tighten`, only where they are lower."""
        changes: dict[str, int | float] = {}
        for name in (one.name for one in fields(self)):
            wanted: int | float | None = getattr(self, name)
            if wanted is not None:
                changes[name] = min(wanted, getattr(base, name)) if tighten else wanted
        return base.model_copy(update=changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSchema:
    """The schema of a result's `data`, and the file it was written in, if in one of its own."""

    body: Mapping[str, Json]
    file: str | None = None


_NO_LIMITS: Final = LimitsPart()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What every resource has."""

    name: str
    description: str = ""
    extras: Mapping[str, Json] = field(default_factory=dict[str, Json])
    """Keys that nothing reads (yet), kept so that writing the file again loses nothing."""
    path: Path = field(compare=False)
    source: Source = field(compare=False)
    trusted: bool = field(compare=False)
    """False for what came with a project that the user's settings do not trust."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """An MCP server of an agent's own: what starts it, or where it is."""

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    call_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFile(Resource):
    """An agent: `agents/<name>.md`."""

    prompt: str
    model: str | None = None
    """None for the run's or the host's."""
    tools: tuple[str, ...] = ()
    deny_tools: tuple[str, ...] = ()
    mcp_servers: tuple[McpServer, ...] = ()
    skills: tuple[str, ...] = ()
    schema: ResultSchema | None = None
    schema_form: SchemaForm = "auto"
    schema_mode: SchemaMode | None = None
    project_context: bool = False
    append_prompt: bool = False
    limits: LimitsPart = _NO_LIMITS
    disabled: bool = False

    def to_spec(
        self, *, limits: "LimitsSpec | None" = None, schema_mode: SchemaMode = "permissive"
    ) -> "AgentSpec":
        """The agent as a run stores it; what the file leaves open comes from the arguments."""
        from crew_plugin.models.spec import AgentSpec, LimitsSpec

        own = None
        if limits is not None or self.limits != _NO_LIMITS:
            own = self.limits.over(limits or LimitsSpec(), tighten=not self.trusted)
        body: dict[str, Any] | None = dict(self.schema.body) if self.schema else None
        return AgentSpec(
            name=self.name,
            prompt=self.prompt,
            tools=self.tools,
            deny_tools=self.deny_tools,
            mcp_servers=self.server_specs(),
            model=self.model,
            skills=self.skills,
            result_schema=body,
            schema_form=self.schema_form,
            schema_mode=self.schema_mode or schema_mode,
            project_context=self.project_context,
            append_prompt=self.append_prompt,
            limits=own,
            trusted=self.trusted,
        )

    def server_specs(self) -> "tuple[McpServerSpec, ...]":
        """Its servers as a run stores them; none for an agent that is not trusted, because a server
        is a program that runs with the user's rights."""
        from crew_plugin.models.spec import McpServerSpec

        if not self.trusted:
            return ()
        return tuple(
            McpServerSpec(
                name=server.name,
                command=server.command,
                args=server.args,
                env=dict(server.env),
                url=server.url,
                headers=dict(server.headers),
                call_seconds=server.call_seconds,
            )
            for server in self.mcp_servers
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A name inside a team, bound to an agent."""

    name: str
    agent: str
    description: str = ""
    model: str | None = None
    skills: Skills = None
    max_concurrency: int | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamFile(Resource):
    """A team: `teams/<name>.team.md`."""

    roles: Mapping[str, Role]
    default_workflow: str | None = None
    max_concurrency: int | None = None
    on_failure: OnFailure | None = None
    notes: str = ""
    """What the body says beside the roles; for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a workflow."""

    id: str
    role: str
    task: str = ""
    """The instruction. `{goal}` stands for the run's goal."""
    depends_on: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    output: str | None = None
    optional: bool = False
    attention: Attention = "skip"
    model: str | None = None
    skills: Skills = None
    verify: bool = False
    schema: ResultSchema | None = None
    schema_form: SchemaForm = "auto"
    schema_mode: SchemaMode | None = None
    limits: LimitsPart = _NO_LIMITS
    resources: tuple[str, ...] = ()
    """What its session needs for itself while it runs."""
    extras: Mapping[str, Json] = field(default_factory=dict[str, Json])
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFile(Resource):
    """A workflow: `workflows/<name>.workflow.md`."""

    steps: tuple[Step, ...]
    max_concurrency: int | None = None
    on_failure: OnFailure | None = None
    notes: str = ""
    """What stands before the first step; for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillFile(Resource):
    """A skill: `skills/<name>/SKILL.md`."""

    body: str
