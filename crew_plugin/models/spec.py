"""What a run is asked to do, as it is stored and as it crosses processes."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from crew_plugin.models.states import SessionKind

__all__ = [
    "AgentSpec",
    "LimitsSpec",
    "McpServerSpec",
    "RunSpec",
    "RuntimeMode",
    "SchemaForm",
    "SchemaMode",
    "SkillText",
    "StepSpec",
]

SchemaMode = Literal["permissive", "strict"]
SchemaForm = Literal["auto", "json-schema", "jtd"]
"""How a result schema is written: JSON Schema, JSON Type Definition (RFC 8927), or as it shows."""
RuntimeMode = Literal["auto", "live-session", "child-process", "scaffold"]


class _Boundary(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitsSpec(_Boundary):
    """The limits of one session. None of them may be absent: there is no endless session."""

    steps: int = Field(default=60, ge=1, le=10_000)
    """Answers of the model. Then nothing is left but to hand in, within five more."""
    requests: int = Field(default=200, ge=1, le=100_000)
    """Requests to the provider, failed ones too: a soft budget. The session is told at 1 time, made
    to hand in at 1.5 times, and ended five requests later."""
    stuck_steps: int = Field(default=12, ge=4, le=1000)
    """Answers in a row whose tool calls brought nothing new."""
    idle_seconds: float = Field(default=300, gt=0)
    """Without a sign of life: no model output, no tool ending."""
    tool_seconds: float = Field(default=600, gt=0)
    """One tool call."""
    turn_seconds: float = Field(default=3000, gt=0)
    """From a prompt to the answer that calls no tool. Then the turn is stopped and the session made
    to hand in."""
    wall_seconds: float = Field(default=3600, gt=0)
    """In all."""
    model_retries: int = Field(default=4, ge=0, le=20)
    """How often one model call is made again after a failure that may pass."""
    attempts: int = Field(default=2, ge=1, le=10)
    """Sessions that a task may have by themselves, one after the other, where what ended one may pass."""


class SkillText(_Boundary):
    """A skill as it goes into a prompt."""

    name: str
    body: str


class McpServerSpec(_Boundary):
    """An MCP server of an agent's own: a command, or an address. `${NAME}` in `args`, `env` and
    `headers` stands for an environment variable and is replaced when the server is reached, so
    that no run keeps a secret."""

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict[str, str])
    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict[str, str])
    call_seconds: float | None = Field(default=None, gt=0)


class AgentSpec(_Boundary):
    """What a session needs of an agent's definition, frozen at the start of the run."""

    name: str
    prompt: str
    """The body of the agent's file."""
    tools: tuple[str, ...] = ()
    """Host-neutral names; those of MCP tools may contain `*`."""
    deny_tools: tuple[str, ...] = ()
    """Names and patterns of tools that it never gets."""
    mcp_servers: tuple[McpServerSpec, ...] = ()
    """Servers of its own."""
    model: str | None = None
    skills: tuple[str, ...] = ()
    result_schema: dict[str, Any] | None = None
    schema_form: SchemaForm = "auto"
    schema_mode: SchemaMode = "permissive"
    project_context: bool = True
    """Whether the project's instructions (AGENTS.md) go into its prompt."""
    append_prompt: bool = False
    """Append to the host's system prompt instead of replacing it."""
    limits: LimitsSpec | None = None
    trusted: bool = True
    """False for an agent that came with the project and was not trusted: its text is fenced."""


class StepSpec(_Boundary):
    """One step, with its agent already chosen."""

    id: str
    role: str
    agent: str
    task: str
    """The instruction; `{goal}` has been replaced where the workflow's author wrote it."""
    trusted: bool = True
    """False where the workflow came with the project and was not trusted: its text is fenced."""
    title: str = ""
    depends_on: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    """Shared outputs to put into the prompt, beside the results of `depends_on`."""
    output: str | None = None
    """The name under which the result's text is shared with later steps."""
    optional: bool = False
    attention: Literal["skip", "pass"] = "skip"
    model: str | None = None
    skills: tuple[str, ...] | Literal[False] | None = None
    result_schema: dict[str, Any] | None = None
    """The caller's schema, else the step's; None for the agent's."""
    schema_form: SchemaForm = "auto"
    schema_mode: SchemaMode | None = None
    """The caller's mode, else the step's; None for the agent's."""
    schema_by_caller: bool = False
    """`result_schema` is the caller's and takes the place of the step's and the agent's."""
    limits: LimitsSpec = LimitsSpec()
    resources: tuple[str, ...] = ()
    """What its session needs for itself while it runs: `db`, `port:8080`."""
    cwd: str | None = None
    """The session's folder; None for the run's."""
    continues: str | None = None
    """The earlier session whose conversation this one goes on with."""


class RunSpec(_Boundary):
    """One run, complete: nothing has to be looked up again to execute it."""

    version: Literal[1] = 1
    goal: str
    team: str
    workflow: str
    cwd: str
    steps: tuple[StepSpec, ...]
    agents: dict[str, AgentSpec]
    """Every agent that a step names."""
    skill_texts: dict[str, SkillText] = Field(default_factory=dict[str, SkillText])
    """Every skill that may go into a prompt."""
    width: int = Field(default=8, ge=1, le=1024)
    """How many sessions of this run may be open at once."""
    fail_fast: bool = False
    wall_seconds: float | None = Field(default=None, gt=0)
    skills: tuple[str, ...] | Literal[False] | None = None
    tag_limits: dict[str, int] = Field(default_factory=dict[str, int])
    """How many sessions with a tag (`role:`, `agent:`, `team:`, `provider:`, `resource:`) may be open at
    once; the last three are counted over all runs of a process."""
    limit_notes: tuple[str, ...] = ()
    """Where each limit, and what a failure does to the others, was decided."""
    runtime: SessionKind = SessionKind.LIVE
    runtime_requested: RuntimeMode = "auto"
    """What was asked for; `runtime` is what came of it when the run was submitted."""
    runtime_reason: str = ""
    """Why it is executed in this way."""
    runtime_fallback: bool = False
    """It is executed in another way than it was asked for."""
    runtime_looked_at: tuple[str, ...] = ()
    """What the choice was made from."""
