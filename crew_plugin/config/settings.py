"""The settings: every key, its default, its bounds, one sentence, and who may set it.

Everything else about settings is made from this model: reading the layers, the commented file
of `crew init`, the JSON Schema and the table in the documentation.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from pydantic_settings import BaseSettings, SettingsConfigDict

from crew_plugin.models.causes import TransientCause

if TYPE_CHECKING:
    from pydantic_settings import PydanticBaseSettingsSource

    from crew_plugin.models.facts import ModelTable
    from crew_plugin.models.spec import LimitsSpec

__all__ = [
    "AgentOverride",
    "AgentSettings",
    "AskSettings",
    "AtOnce",
    "BundleSettings",
    "ChildSettings",
    "ContextSettings",
    "DeliverySettings",
    "HookSettings",
    "KeepSettings",
    "LimitSettings",
    "MailSettings",
    "McpServerSettings",
    "McpSettings",
    "ModelOverride",
    "NotifySettings",
    "ProjectMay",
    "ProviderSettings",
    "RecoverySettings",
    "ResultSettings",
    "RetrySettings",
    "RuntimeSettings",
    "SafetySettings",
    "Settings",
    "SettingsWarning",
]

type ProjectMay = Literal["lower", "tighten", "set", "nothing"]
"""What a project's own file may do with a key: lower the number, choose the stricter word,
anything, or nothing at all. A repository that somebody cloned must not loosen anything."""

type SettingsWarning = str


def _key(default: Any, sentence: str, *, project: ProjectMay, **bounds: Any) -> Any:
    """A setting. `project` travels in the JSON Schema, so that tools see it too."""
    return Field(default=default, description=sentence, json_schema_extra={"project_may": project}, **bounds)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LimitSettings(_Section):
    """How much a run and its sessions may use."""

    width: int = _key(8, "Sessions of one run that may be open at once.", project="lower", ge=1, le=1024)
    process_sessions: int = _key(
        32,
        "Sessions that may be open at once in one process, over all its runs.",
        project="lower",
        ge=1,
        le=1024,
    )
    steps: int = _key(
        60,
        "Model calls of one session; after them it can only hand in its result.",
        project="lower",
        ge=1,
        le=10_000,
    )
    requests: int = _key(
        200,
        "Requests of one session to the model provider, failed ones too, after which it is told to finish; "
        "at one and a half times as many its turn is stopped and it is made to hand in.",
        project="lower",
        ge=1,
        le=100_000,
    )
    stuck_steps: int = _key(
        12,
        "Model calls in a row that bring nothing new (calls made before, calls that fail) after which a "
        "session is ended; it is warned, told and narrowed at a quarter, half and three quarters of it.",
        project="lower",
        ge=4,
        le=1000,
    )
    idle_seconds: float = _key(
        300,
        "Seconds that a session may be without a sign of life: no model output, no tool ending.",
        project="lower",
        gt=0,
    )
    tool_seconds: float = _key(
        600, "Seconds that one tool call may take before it is stopped.", project="lower", gt=0
    )
    turn_seconds: float = _key(
        3000,
        "Seconds that a session may work without a pause before its turn is stopped and it is made to hand "
        "in its result.",
        project="lower",
        gt=0,
    )
    wall_seconds: float = _key(3600, "Seconds that a session may take in all.", project="lower", gt=0)
    model_retries: int = _key(
        4,
        "How often one model call is made again after a failure that may pass.",
        project="lower",
        ge=0,
        le=20,
    )
    attempts: int = _key(
        2,
        "How often a task is tried in all by itself, where what ended its session may pass (`retry.causes`).",
        project="lower",
        ge=1,
        le=10,
    )
    depth: int = _key(
        2,
        "How deep crews may start crews: a run that a session of another run starts counts one more.",
        project="lower",
        ge=0,
        le=16,
    )
    max_dispatches: int = _key(
        3, "How often a task may be started before it is given up.", project="lower", ge=1, le=100
    )
    run_wall_seconds: float | None = _key(
        None,
        "Seconds that a whole run may take; without it only its sessions are limited.",
        project="lower",
        gt=0,
    )

    on_failure: Literal["keep-going", "fail-fast"] | None = _key(
        None,
        "What a failed task does to the others of its run: they go on (keep-going), or they are cancelled "
        "(fail-fast). A call, a workflow or a team may say otherwise; without any word they go on.",
        project="set",
    )

    def session(self) -> "LimitsSpec":
        """The limits of a session that no agent, step or call says otherwise about."""
        from crew_plugin.models.spec import LimitsSpec

        return LimitsSpec(
            steps=self.steps,
            requests=self.requests,
            stuck_steps=self.stuck_steps,
            idle_seconds=self.idle_seconds,
            tool_seconds=self.tool_seconds,
            turn_seconds=self.turn_seconds,
            wall_seconds=self.wall_seconds,
            model_retries=self.model_retries,
            attempts=self.attempts,
        )


class RetrySettings(_Section):
    """When a task is tried again by itself. `limits.attempts` says how often."""

    base_seconds: float = _key(2, "Seconds before the second attempt.", project="nothing", ge=0, le=3600)
    factor: float = _key(
        2, "How many times as long each further pause is as the one before.", project="nothing", ge=1, le=10
    )
    cap_seconds: float = _key(60, "Seconds that a pause is at most.", project="nothing", ge=0, le=86_400)
    jitter: float = _key(
        0.3,
        "The part of each pause that is left to chance, so that tasks which failed together do not all come "
        "back at once.",
        project="nothing",
        ge=0,
        le=1,
    )
    causes: tuple[TransientCause, ...] = _key(
        get_args(TransientCause),
        "Why a session may have ended for its task to be tried again. A provider that refuses for good, and "
        "a session that did what cannot be repeated without thought, are left out in any case.",
        project="nothing",
    )


class ProviderSettings(_Section):
    """How many requests at once a model provider is asked, for each of its credentials."""

    start_requests: int = _key(
        128, "Requests under way at once until the provider refuses one.", project="lower", ge=1, le=4096
    )
    max_requests: int = _key(
        1024, "Requests under way at once, however well the provider answers.", project="lower", ge=1, le=4096
    )


class AtOnce(_Section):
    """How many sessions that have something in common may be open at once."""

    sessions: int | None = _key(
        None,
        "Sessions that may be open at once with this in common: team:NAME, provider:NAME and resource:NAME "
        "over all runs of a process, role:NAME and agent:NAME in each run. A resource has room for one if "
        "nothing is set.",
        project="lower",
        ge=1,
        le=1024,
    )


class ResultSettings(_Section):
    """How a session is held to handing in a result."""

    reminders: int = _key(
        3,
        "Reminders to a session that stops without having called submit_result.",
        project="lower",
        ge=0,
        le=10,
    )
    schema_mode: Literal["permissive", "strict"] = _key(
        "permissive",
        "What happens when a result keeps failing its schema: accepted and flagged (permissive), or the task "
        "fails (strict).",
        project="tighten",
    )
    max_bytes: int = _key(
        8_000_000,
        "Characters that one call of submit_result may hand in.",
        project="lower",
        ge=10_000,
        le=64_000_000,
    )
    jobs_seconds: float = _key(
        600.0,
        "How long a session may wait for jobs that it started in the background. Then they are ended, and a "
        "result that waited for them is taken with the flag jobs_ended.",
        project="lower",
        gt=0,
        le=86_400,
    )


class RuntimeSettings(_Section):
    """Where sessions are executed."""

    mode: Literal["auto", "live-session", "child-process", "scaffold"] = _key(
        "auto",
        "How sessions are executed: inside the host's process (live-session), each in a process of its own "
        "(child-process; live where the host has none), as a dry run that writes prompts and asks no model "
        "(scaffold), or whatever the host can do best (auto).",
        project="nothing",
    )

    background: Literal["detached", "host"] = _key(
        "detached",
        "Where runs in the background are driven: in a process of their own that goes on when the host is "
        "closed (detached), or in the host's, where they end with it (host).",
        project="nothing",
    )


class ChildSettings(_Section):
    """Sessions in processes of their own."""

    env_deny: tuple[str, ...] = _key(
        ("GITHUB_TOKEN", "GH_TOKEN", "NPM_TOKEN", "PYPI_TOKEN", "TWINE_*", "SSH_AUTH_SOCK", "*_WEBHOOK_URL"),
        "Environment variables that worker processes do not get; `*` is any text. Those of model providers "
        "are needed there.",
        project="nothing",
    )
    fork: bool = _key(
        True,
        "Whether workers are forked from a process that has loaded the host, where that is safe (Linux). "
        "Without it each loads the host itself, which takes seconds.",
        project="nothing",
    )


class AgentOverride(_Section):
    """What to change about one agent, wherever it comes from."""

    disabled: bool = _key(False, "Take the agent out of use.", project="nothing")
    model: str | Literal[False] | None = _key(
        None, "Use this model; false for the run's or the host's.", project="nothing"
    )
    tools: tuple[str, ...] | Literal[False] | None = _key(
        None, "Give it these tools; false for none.", project="nothing"
    )
    deny_tools: tuple[str, ...] = _key(
        (),
        "Never give it these tools, beside those its file denies; `*` is any text.",
        project="nothing",
    )
    skills: tuple[str, ...] | Literal[False] | None = _key(
        None, "Give it these skills; false for none.", project="nothing"
    )


class AgentSettings(_Section):
    """Which agents there are."""

    disable_builtins: bool = _key(False, "Take all builtin agents out of use.", project="nothing")
    overrides: Annotated[dict[str, AgentOverride], "by agent"] = Field(
        default_factory=dict[str, AgentOverride],
        description="Changes to single agents by name, in whatever capitals.",
        json_schema_extra={"project_may": "nothing"},
    )


class ModelOverride(_Section):
    """What is known of one model."""

    window: int | None = _key(
        None, "Tokens of its context; without it `context.window`.", project="nothing", ge=1000
    )
    input_usd: float | None = _key(
        None, "US dollars for a million tokens that it is given.", project="nothing", ge=0
    )
    output_usd: float | None = _key(
        None, "US dollars for a million tokens that it writes.", project="nothing", ge=0
    )
    cached_usd: float | None = _key(
        None, "US dollars for a million tokens that its provider had cached.", project="nothing", ge=0
    )


class ContextSettings(_Section):
    """How much a conversation may hold."""

    window: int = _key(
        200_000,
        "Tokens that a model is taken to hold where `models` does not say. At 75 % of it sessions of the "
        "crew are compacted and the host's model is asked to hand off.",
        project="nothing",
        ge=1000,
    )


class McpServerSettings(_Section):
    """What to change about one MCP server of the host."""

    call_seconds: float = _key(60, "Seconds that one call of its tools may take.", project="nothing", gt=0)


class McpSettings(_Section):
    """How sessions use MCP servers."""

    call_seconds: float = _key(60, "Seconds that one call of an MCP tool may take.", project="lower", gt=0)
    connect_seconds: float = _key(
        20, "Seconds that an MCP server may take to get ready.", project="lower", gt=0
    )
    idle_seconds: float = _key(
        300,
        "Seconds after which an MCP server of one agent is ended that no session uses any more.",
        project="lower",
        gt=0,
    )
    servers: Annotated[dict[str, McpServerSettings], "by server"] = Field(
        default_factory=dict[str, McpServerSettings],
        description="Changes to single MCP servers of the host by name.",
        json_schema_extra={"project_may": "nothing"},
    )


class HookSettings(_Section):
    """How long other people's code is waited for."""

    seconds: float = _key(
        10,
        "Seconds that one implementation of a hook may take: of the crew's own hooks, and of the host's "
        "hooks where they are called for a session of the crew.",
        project="lower",
        gt=0,
        le=600,
    )


class MailSettings(_Section):
    """How sessions of a run talk to each other."""

    reply_seconds: float = _key(
        60, "Seconds that a session waits for an answer where it names no time.", project="lower", gt=0
    )
    reply_max_seconds: float = _key(
        600, "Seconds that a session may wait for an answer at most.", project="lower", gt=0
    )
    keep_seconds: float = _key(
        420,
        "Seconds after its end for which a session is called idle; later it is called parked.",
        project="lower",
        ge=0,
    )
    wakes_session: int = _key(
        3, "How often an ended session may be woken to read its mail.", project="lower", ge=0, le=1000
    )
    wakes_run: int = _key(
        30, "How often ended sessions of one run may be woken in all.", project="lower", ge=0, le=10_000
    )
    follow_up_steps: int = _key(
        12, "Model calls that a woken session may make each time.", project="lower", ge=1, le=1000
    )
    follow_up_seconds: float = _key(
        300, "Seconds that a woken session may take each time.", project="lower", gt=0
    )


class DeliverySettings(_Section):
    """How results of background runs reach the session that asked for them."""

    keep_hours: float = _key(
        24, "Hours that a result waits for its session to be reachable again.", project="nothing", gt=0
    )
    join: Literal["off", "group", "smart"] = _key(
        "smart",
        "How results of runs that were started in one turn reach their session: each task's as soon as it is "
        "there (off), all together (group), or what is there after `first_seconds`, then the rest together "
        "(smart).",
        project="set",
    )
    first_seconds: float = _key(
        120,
        "Seconds that the first results of a group wait for the others where they are joined smartly.",
        project="set",
        gt=0,
    )
    longest_seconds: float = _key(
        1800,
        "Seconds that any result waits for others of its group; then what is there is handed over.",
        project="set",
        gt=0,
    )


class NotifySettings(_Section):
    """How a person hears of background runs outside of any conversation."""

    how: Literal["off", "bell", "osc9", "osc777", "desktop", "command"] = _key(
        "off",
        "How: a bell or a notification (OSC 9, OSC 777) of the terminal with the chat that asked for the "
        "run, a notification of the desktop, or a command of your own.",
        project="nothing",
    )
    when: tuple[Literal["completed", "failed", "cancelled", "lost", "question"], ...] = _key(
        ("completed", "failed", "lost", "question"),
        "Of what: how a run ended, that its process is gone, or that one of its agents asks something.",
        project="nothing",
    )
    command: tuple[str, ...] = _key(
        (),
        "The program and its arguments for `command`; it runs without a shell and finds what happened in "
        "CREW_NOTICE_KIND, _RUN, _TITLE, _BODY and _FOLDER.",
        project="nothing",
    )


class AskSettings(_Section):
    """How long sessions wait for the answer to a question."""

    seconds: float = _key(
        3600, "Seconds that a session waits for an answer where it names no time.", project="lower", gt=0
    )
    max_seconds: float = _key(
        86_400, "Seconds that a session may wait for an answer at most.", project="lower", gt=0
    )


class SafetySettings(_Section):
    """What destructive actions need."""

    intent: bool = _key(
        False,
        "Destructive actions also need an `intent`, a few words on why, which is written into the event.",
        project="tighten",
    )


class KeepSettings(_Section):
    """What is kept: of runs while they go on, and by `prune` of ended ones."""

    days: float = _key(30, "Days for which `crew prune` keeps a run after its end.", project="nothing", ge=0)
    runs: int = _key(1000, "How many ended runs `crew prune` keeps.", project="nothing", ge=0)
    details_days: float = _key(
        14,
        "Days after the end of a run for which `crew prune` keeps what its results do not need: logs, "
        "prompts and other bodies, and events that say how things went.",
        project="nothing",
        ge=0,
    )
    details_mb: float = _key(
        2000,
        "Megabytes of such bodies of ended runs that `crew prune` keeps; those of the oldest runs go first.",
        project="nothing",
        ge=0,
    )
    events: int = _key(
        20_000,
        "Events of the kinds that say how things go (model answers, tool calls, notes, hooks) that are kept "
        "of one run. What comes after is counted and left out.",
        project="nothing",
        ge=100,
    )
    log_kb: int = _key(
        5000,
        "Kilobytes that the log of a detached supervisor may have; then its older half is dropped.",
        project="nothing",
        ge=16,
    )


class BundleSettings(_Section):
    """Runs that come as files."""

    max_bytes: int = _key(
        256_000_000,
        "Bytes that a bundle may have, packed or unpacked, to be imported.",
        project="lower",
        ge=100_000,
        le=4_000_000_000,
    )


class RecoverySettings(_Section):
    """What becomes of runs whose supervisor is gone."""

    policy: Literal["ask", "auto"] = _key(
        "ask",
        "Whether such a run waits until somebody resumes it (ask), or any crew at work in the project goes "
        "on with it (auto). A call with an effect outside that was cut off waits for a decision in any case.",
        project="nothing",
    )
    lease_seconds: float = _key(
        15,
        "Seconds for which a supervisor may show no sign of life before others may take its run.",
        project="nothing",
        ge=1,
        le=3600,
    )


class Settings(BaseSettings):
    """All settings. `Settings()` is the defaults; `load_settings` reads the layers."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        env_prefix="CREW_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    model: str | None = _key(
        None,
        "The model of every session that names none itself; without it the host's own.",
        project="nothing",
    )
    progress: bool = _key(
        True, "Show a line in the chat for each thing that happens in a run.", project="set"
    )
    trusted_projects: tuple[str, ...] = _key(
        (),
        "Folders of projects whose own agents, teams, workflows and skills may take the place of others.",
        project="nothing",
    )
    limits: LimitSettings = LimitSettings()
    at_once: Annotated[dict[str, AtOnce], "by tag"] = Field(
        default_factory=dict[str, AtOnce],
        description="How many sessions that have something in common may be open at once.",
        json_schema_extra={"project_may": "lower"},
    )
    retry: RetrySettings = RetrySettings()
    provider: ProviderSettings = ProviderSettings()
    result: ResultSettings = ResultSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    agents: AgentSettings = AgentSettings()
    context: ContextSettings = ContextSettings()
    models: Annotated[dict[str, ModelOverride], "by model"] = Field(
        default_factory=dict[str, ModelOverride],
        description="What is known of single models, by the name that the provider or the host gives them.",
        json_schema_extra={"project_may": "nothing"},
    )
    mail: MailSettings = MailSettings()
    delivery: DeliverySettings = DeliverySettings()
    notify: NotifySettings = NotifySettings()
    ask: AskSettings = AskSettings()
    safety: SafetySettings = SafetySettings()
    recovery: RecoverySettings = RecoverySettings()
    keep: KeepSettings = KeepSettings()
    bundles: BundleSettings = BundleSettings()
    child: ChildSettings = ChildSettings()
    hooks: HookSettings = HookSettings()
    mcp: McpSettings = McpSettings()

    _warnings: tuple[SettingsWarning, ...] = PrivateAttr(default=())
    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict[str, str])

    def model_table(self) -> "ModelTable":
        """How much models hold and what they cost."""
        from crew_plugin.models.facts import ModelFacts, ModelTable

        facts = {
            name: ModelFacts(
                window=one.window,
                input_usd=one.input_usd,
                output_usd=one.output_usd,
                cached_usd=one.cached_usd,
            )
            for name, one in self.models.items()
        }
        return ModelTable(facts=facts, window=self.context.window)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: "PydanticBaseSettingsSource",
        env_settings: "PydanticBaseSettingsSource",
        dotenv_settings: "PydanticBaseSettingsSource",
        file_secret_settings: "PydanticBaseSettingsSource",
    ) -> "tuple[PydanticBaseSettingsSource, ...]":
        """Only what is passed in: the layers are read by `load_settings`, which reports on them."""
        return (init_settings,)

    @property
    def warnings(self) -> tuple[SettingsWarning, ...]:
        """What was wrong with the layers and therefore left out."""
        return self._warnings

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each value that is not a default came from, by dotted key."""
        return self._sources

    def read_from(self, warnings: tuple[SettingsWarning, ...], sources: Mapping[str, str]) -> "Settings":
        """These settings, knowing how they were read."""
        copy = self.model_copy()
        copy._warnings = warnings
        copy._sources = dict(sources)
        return copy
