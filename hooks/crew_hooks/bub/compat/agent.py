"""Bub's agent as a session of ours runs it: private, quiet, and closed to other plugins' faults."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

import asyncio
import contextlib
import contextvars
import inspect
import sys
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, cast

from bub.builtin.agent import Agent
from bub.builtin.environment import LocalEnvironment
from bub.builtin.shell_manager import shell_manager
from bub.environment import ENVIRONMENT_STATE_KEY, CallTool, Environment, Process
from bub.framework import BubFramework
from bub.store import InMemoryTapeStore, TapeQuery
from bub.streaming import AsyncStreamEvents, StreamState
from bub.tape import Tape, TapeContext, TapeEntry
from bub.tools import _TOOL_CALL_REPORTER, REGISTRY, Tool, ToolContext, render_result
from bub.turn import TurnState
from bub.utils import workspace_from_state
from loguru import logger

from crew_hooks.bub.clients import ClientPool
from crew_hooks.bub.compat import OFFERED
from crew_hooks.bub.compat.bridge import IDENTITY, Bridge
from crew_hooks.bub.compat.runner import CrewRunner, ModelWatch, as_object
from crew_plugin.engine.intime import in_time, is_ours
from crew_plugin.host import ToolError
from crew_plugin.session.history import Said

__all__ = [
    "CrewAgent",
    "Inbox",
    "OpenTool",
    "SessionEnvironment",
    "ShellEnd",
    "end_shells",
    "is_local",
    "load_state",
    "offered_tool",
    "owned_environment",
    "plugin_tool",
    "quiet_context",
    "rendered",
    "run_host_tool",
    "shell_end",
    "shell_of",
    "shell_runs",
    "with_environment",
]

_CLOSE_SECONDS: Final = 2.0
_NO_COMMANDS: Final = "\x00no-commands\x00"
"""A command prefix that no text begins with: what a task says is never a command."""


class Inbox(Protocol):
    """Where a session keeps the texts that its next model call is to see."""

    def put(self, text: str) -> None:
        """Add a text."""
        ...

    def drain(self) -> list[str]:
        """Take all texts."""
        ...

    def __len__(self) -> int: ...


class _SteeringInbox:
    """One session's inbox in Bub's terms. Private, so nothing of it can be left behind in Bub."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def enqueue_message(self, message: Any, state: TurnState) -> None:
        self._inbox.put(str(message.get("content", "") if isinstance(message, Mapping) else message.content))

    async def drain_messages(self, state: TurnState) -> list[Any]:
        return [{"content": text} for text in self._inbox.drain()]

    def message_count(self, state: TurnState) -> int:
        return len(self._inbox)


class _Tapes:
    """A tape store in memory, without the thread per operation that Bub's adapter would take."""

    def __init__(self) -> None:
        self._store = InMemoryTapeStore()

    async def list_tapes(self) -> list[str]:
        return self._store.list_tapes()

    async def reset(self, tape: str) -> None:
        self._store.reset(tape)

    async def fetch_all(self, query: "TapeQuery[Any]") -> Iterable[TapeEntry]:
        return self._store.fetch_all(query)

    async def append(self, tape: str, entry: TapeEntry) -> None:
        self._store.append(tape, entry)


class _SessionTape(Tape):
    """A tape that is named without a look at the disk: Bub resolves the folder at every naming, on
    the loop. Only one session ever uses the store of such a tape."""

    def session_tape(self, session_id: str, workspace: Path, context: TapeContext | None = None) -> Tape:
        return self.scoped(f"crew__{session_id}", context=context)


class _SessionFramework:
    """The framework as one session sees it: Bub's own, but for what would end or mix up sessions."""

    def __init__(self, framework: BubFramework, inbox: Inbox, bridge: Bridge) -> None:
        self._framework = framework
        self._inbox = _SteeringInbox(inbox)
        self._bridge = bridge

    def __getattr__(self, name: str) -> Any:
        return getattr(self._framework, name)

    def get_steering_inbox(self) -> _SteeringInbox:
        return self._inbox

    def get_tape_sidecars(self) -> tuple[()]:
        return ()

    def build_tape_context(self) -> TapeContext:
        return self._bridge.tape_context()

    async def build_prompt(self, message: Any, session_id: str, state: TurnState) -> str:
        return str(message["content"])  # taken literally: no media, no commands, no channel's preface

    async def continue_prompt(self, prompt: Any, tape: Tape, state: StreamState) -> str | None:
        return await self._bridge.continue_prompt(prompt, tape, state)


class CrewAgent(Agent):
    """The agent of one session: its own tools, tape, system prompt and model runner."""

    def __init__(
        self,
        framework: BubFramework,
        *,
        inbox: Inbox,
        bridge: Bridge,
        pool: ClientPool,
        watch: ModelWatch,
        system_prompt: str,
        append_prompt: bool,
        retries: int,
        stall_seconds: float,
    ) -> None:
        session_framework = cast("BubFramework", _SessionFramework(framework, inbox, bridge))
        super().__init__(
            session_framework, tools=(), tape_store=_Tapes(), skill_dirs=(), command_prefix=_NO_COMMANDS
        )
        self.tape = _SessionTape(self.tape.archive_path, self.tape.store, self.tape.context)
        # Both are of one turn of a chat. A session is one turn, and a model call of it waits at the gate
        # and is made again; it has limits of its own.
        self.settings = self.settings.model_copy(
            update={"model_timeout_seconds": None, "max_steps": sys.maxsize}
        )
        self._bridge = bridge
        self._own_prompt = system_prompt
        self._append = append_prompt
        self.model_runner = self.runner = CrewRunner(
            self.settings,
            bridge.agent_hooks(),
            pool=pool,
            watch=watch,
            retries=retries,
            stall_seconds=stall_seconds,
        )

    def offer(self, tools: Sequence[Tool]) -> None:
        """From the next model call on, offer exactly these tools."""
        self.tools = {tool.name: tool for tool in tools}

    async def start(
        self, session_id: str, prompt: str, state: TurnState, model: str | None, said: Sequence[Said] = ()
    ) -> AsyncStreamEvents:
        """Begin the one turn of the session, after what was said before."""
        self.runner.call_ids.know(call.id for one in said for call in one.calls)
        if said:
            tape = self.tape.session_tape(session_id, workspace_from_state(state))
            # First what Bub would put behind it: a tape is read from its last anchor on.
            await tape.ensure_bootstrap_anchor()
            for entry in _entries(said):
                await tape.store.append(tape.name, entry)
        return await self.run_stream(session_id=session_id, prompt=prompt or " ", state=state, model=model)

    def _system_prompt(
        self,
        prompt: str,
        state: TurnState,
        allowed_skills: set[str] | None = None,
        tools_prompt: str = "",
    ) -> str:
        blocks = [] if self._append else [self._own_prompt]
        blocks += self._bridge.system_prompts(prompt, state, builtin=self._append)
        if self._append:
            blocks.append(self._own_prompt)
        return "\n\n".join(block for block in (*blocks, tools_prompt) if block)


def _entries(said: Sequence[Said]) -> Iterable[TapeEntry]:
    for one in said:
        if not one.calls:
            yield TapeEntry.message({"role": one.role, "content": one.text})
            continue
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": as_object(call.arguments)},
            }
            for call in one.calls
        ]
        yield TapeEntry.tool_call(calls, content=one.text or None)
        yield TapeEntry.tool_result([call.result for call in one.calls])


async def load_state(
    bridge: Bridge, agent: CrewAgent, session_id: str, cwd: str, identity: Mapping[str, str]
) -> TurnState:
    """A session's own state: what the hooks of Bub and of other plugins put there, then ours.

    Nothing comes from the parent's turn.
    """
    state = await bridge.load_state(session_id, agent, identity)
    state |= {
        "session_id": session_id,
        "_runtime_agent": agent,
        "_runtime_workspace": cwd,
        "_runtime_thread_id": session_id,
        "_runtime_steering_inbox": agent.framework.get_steering_inbox(),
        IDENTITY: dict(identity),
    }
    return state


class SessionEnvironment(Environment):
    """An environment that marks every process it starts with the session's variables."""

    def __init__(self, inner: Environment, marks: Mapping[str, str]) -> None:
        self.inner = inner
        self.workspace = inner.workspace
        self.python = inner.python
        self.spawned = False
        self._marks = dict(marks)

    async def spawn(
        self, command: str | Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> Process:
        self.spawned = True
        return await self.inner.spawn(command, cwd=cwd, env={**(env or {}), **self._marks})

    async def read_text(self, path: str) -> str:
        return await self.inner.read_text(path)

    async def write_text(self, path: str, content: str) -> None:
        await self.inner.write_text(path, content)

    def resolve_path(self, path: str) -> str:
        return self.inner.resolve_path(path)

    async def run_code(self, code: str, *, tools: Sequence[str], call_tool: CallTool, write: Any) -> None:
        await self.inner.run_code(code, tools=tools, call_tool=call_tool, write=write)

    async def close(self) -> None:
        await self.inner.close()


def is_local(environment: SessionEnvironment) -> bool:
    """Whether its files are those of this machine."""
    return isinstance(environment.inner, LocalEnvironment)


@asynccontextmanager
async def owned_environment(
    bridge: Bridge, session_id: str, cwd: str, marks: Mapping[str, str]
) -> AsyncGenerator[SessionEnvironment]:
    """The environment that the hooks provide for a folder, closed on leaving.

    Bub keeps one per session id for as long as it runs; this one is the session's own.
    """
    inner = await bridge.environment(session_id, cwd)
    environment = SessionEnvironment(inner or LocalEnvironment(cwd), marks)
    try:
        yield environment
    finally:
        try:
            await in_time(environment.close(), _CLOSE_SECONDS, name="crew closes an environment")
        except BaseException as error:
            if is_ours(error):
                raise
            bridge.unclosed(environment.inner, error)


def with_environment(state: TurnState, environment: SessionEnvironment) -> TurnState:
    """The state with the environment in the place where Bub's tools look for it."""
    state[ENVIRONMENT_STATE_KEY] = environment
    return state


class OpenTool(Tool):
    """A tool whose arguments may have any name: Bub's own cannot be given one called `self`."""

    def run(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.handler(*args, **kwargs)


def offered_tool(name: str) -> Tool | None:
    """A tool that Bub offers to everyone."""
    return REGISTRY.get(name)


def plugin_tool(name: str) -> Tool | None:
    """A tool of this name that another plugin offers to everyone: none of Bub's own, none of ours.
    Where a name has a dot, the model's spelling of it is known too."""
    for tool in REGISTRY.values():
        if name in (tool.name, tool.name.replace(".", "_")):
            own = tool.name in _bubs_own() or tool.name in OFFERED or tool.exposure == "command"
            return None if own else tool
    return None


@cache
def _bubs_own() -> frozenset[str]:
    from bub.builtin import tools

    return frozenset(value.name for value in vars(tools).values() if isinstance(value, Tool))


async def run_host_tool(tool: Tool, agent: CrewAgent, state: TurnState, arguments: Mapping[str, Any]) -> str:
    """Call a tool of Bub for a session; returns what its model is to see. Raises `ToolError` for an
    argument whose name is taken."""
    values = dict(arguments)
    for name in ("self", "context") if tool.context else ("self",):
        if name in values:
            raise ToolError(f"{tool.name} can take no argument called {name!r}; leave it out")
    if tool.context:
        values["context"] = ToolContext(tape=agent.tape, state=state)
    result = tool.run(**values)
    if inspect.isawaitable(result):
        result = await result
    return tool.render(result)


def rendered(result: object) -> str:
    """A tool's result as Bub puts it before the model."""
    return render_result(result)


class _Silent:
    """Takes the place of the reporter that would show a session's tool calls to the parent's user."""

    def start(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        return None

    def success(self, name: str, result: Any, elapsed_ms: float) -> None:
        return None

    def error(self, name: str, error: BaseException, elapsed_ms: float) -> None:
        return None


def quiet_context() -> contextvars.Context:
    """A copy of the current context in which Bub's tools report to nobody."""
    context = contextvars.copy_context()
    context.run(_TOOL_CALL_REPORTER.set, _Silent())
    return context


def shell_of(shell_id: str) -> str | None:
    """The session that owns a shell; None if there is no such shell."""
    shell = shell_manager._shells.get(shell_id)
    return shell.session_id if shell is not None else None


def shell_runs(shell_id: str) -> bool:
    """Whether a shell is known, and nobody is ending it."""
    shell = shell_manager._shells.get(shell_id)
    return shell is not None and shell.termination_task is None


@dataclass(frozen=True, slots=True)
class ShellEnd:
    """How a shell ended."""

    code: int | None
    output: str


async def shell_end(shell_id: str) -> ShellEnd | None:
    """Wait until a shell has ended by itself and all its output is in. None if it was ended.

    Bub's own `wait_closed` would forget the shell, and its output could not be read any more.
    """
    shell = shell_manager._shells.get(shell_id)
    if shell is None:
        return None
    await shell.process.wait()
    for task in shell.read_tasks:
        with contextlib.suppress(Exception):  # what could not be read is not part of the output
            await asyncio.shield(task)
    return None if shell.termination_task is not None else ShellEnd(shell.returncode, shell.output)


async def end_shells(session_id: str, only: Collection[str] | None = None) -> int:
    """Terminate the shells of a session, or `only` these of them: TERM, and KILL for what is still
    there after 3 s.

    Bub's own `terminate_session` sees only shells started under the same `running()` as its
    caller, which for a session that outlives a turn need not be the same.
    """
    mine = [
        shell.shell_id
        for shell in shell_manager._shells.values()
        if shell.session_id == session_id and (only is None or shell.shell_id in only)
    ]
    ended = await asyncio.gather(*map(shell_manager.terminate, mine), return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception) and not isinstance(outcome, KeyError):
            logger.warning("crew: a shell of {} could not be ended: {!r}", session_id, outcome)
    return len(mine)
