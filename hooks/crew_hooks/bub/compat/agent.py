"""Bub's agent as a session of ours runs it: private, quiet, and closed to other plugins' faults."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

import asyncio
import contextvars
import inspect
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol, cast

from bub.builtin.agent import Agent
from bub.builtin.context import default_tape_context
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
from crew_hooks.bub.compat import BUILTIN
from crew_hooks.bub.compat.runner import CrewRunner, ModelWatch, as_object
from crew_plugin.session.history import Said

__all__ = [
    "IDENTITY",
    "CrewAgent",
    "Inbox",
    "SessionEnvironment",
    "end_shells",
    "is_local",
    "load_state",
    "offered_tool",
    "owned_environment",
    "quiet_context",
    "rendered",
    "run_host_tool",
    "shell_of",
    "with_environment",
]

IDENTITY: Final = "crew"
"""Under this key of the state other plugins' hooks find the run, task and role of a session."""
_HOOK_SECONDS: Final = 10.0
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


class _SessionFramework:
    """The framework as one session sees it: Bub's own, but for what would end or mix up sessions."""

    def __init__(self, framework: BubFramework, inbox: Inbox) -> None:
        self._framework = framework
        self._inbox = _SteeringInbox(inbox)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._framework, name)

    def get_steering_inbox(self) -> _SteeringInbox:
        return self._inbox

    def get_tape_sidecars(self) -> tuple[()]:
        return ()

    def build_tape_context(self) -> TapeContext:
        try:
            return self._framework.build_tape_context()
        except Exception as error:  # noqa: BLE001 - another plugin's fault is logged, not ours to die of
            _log_fault("build_tape_context", "a plugin", error)
            return default_tape_context()

    async def build_prompt(self, message: Any, session_id: str, state: TurnState) -> str:
        return str(message["content"])  # taken literally: no media, no commands, no channel's preface

    async def continue_prompt(self, prompt: Any, tape: Tape, state: StreamState) -> str | None:
        try:
            return await self._framework.continue_prompt(prompt=prompt, tape=tape, state=state)
        except Exception as error:  # noqa: BLE001 - as above
            _log_fault("continue_prompt", "a plugin", error)
            return None


class CrewAgent(Agent):
    """The agent of one session: its own tools, tape, system prompt and model runner."""

    def __init__(
        self,
        framework: BubFramework,
        *,
        inbox: Inbox,
        pool: ClientPool,
        watch: ModelWatch,
        system_prompt: str,
        append_prompt: bool,
        retries: int,
        stall_seconds: float,
    ) -> None:
        session_framework = cast("BubFramework", _SessionFramework(framework, inbox))
        super().__init__(
            session_framework, tools=(), tape_store=_Tapes(), skill_dirs=(), command_prefix=_NO_COMMANDS
        )
        self._hooks_of = framework
        self._own_prompt = system_prompt
        self._append = append_prompt
        self.model_runner = self.runner = CrewRunner(
            self.settings,
            framework.get_agent_hooks(),
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
        for impl in _hookimpls(self._hooks_of, "system_prompt"):
            if impl.plugin_name == BUILTIN and not self._append:
                continue
            try:
                block = impl.function(**_arguments(self._hooks_of, impl, prompt=prompt, state=state))
            except Exception as error:  # noqa: BLE001 - another plugin's fault is logged and left out
                _log_fault("system_prompt", impl.plugin_name, error)
                continue
            if isinstance(block, str) and block:
                blocks.append(block)
            elif inspect.iscoroutine(block):
                block.close()
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


def _hookimpls(framework: BubFramework, name: str) -> list[Any]:
    """Implementations of a hook from low to high priority."""
    return list(reversed(framework._hook_runtime._iter_hookimpls(name)))


def _arguments(framework: BubFramework, impl: Any, **values: Any) -> dict[str, Any]:
    return framework._hook_runtime._kwargs_for_impl(impl, values)


def _log_fault(hook: str, plugin: object, error: Exception) -> None:
    logger.warning("crew: {} of {} failed and is left out of a session: {!r}", hook, plugin, error)


async def _ask(framework: BubFramework, impl: Any, hook: str, **values: Any) -> Any:
    """The answer of one hook implementation; None, and a line in the log, if it fails or hangs."""
    try:
        answer = impl.function(**_arguments(framework, impl, **values))
        if inspect.isawaitable(answer):
            async with asyncio.timeout(_HOOK_SECONDS):
                answer = await answer
    except Exception as error:  # noqa: BLE001 - another plugin's fault is logged and left out
        _log_fault(hook, impl.plugin_name, error)
        return None
    return answer


async def load_state(
    framework: BubFramework, agent: CrewAgent, session_id: str, cwd: str, identity: Mapping[str, str]
) -> TurnState:
    """A session's own state: what the hooks of Bub and of other plugins put there, then ours.

    Nothing comes from the parent's turn. bub-mcp is left out: it would wait for all servers and
    bind all their tools; a session gets only those that its agent lists.
    """
    state: TurnState = {}
    message = {"session_id": session_id, "content": "", "channel": IDENTITY, "_runtime_agent": agent}
    for impl in _hookimpls(framework, "load_state"):
        if type(impl.plugin).__module__ == "bub_mcp.plugin":
            continue
        loaded = await _ask(framework, impl, "load_state", message=message, session_id=session_id)
        if isinstance(loaded, dict):
            state.update(loaded)
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
    framework: BubFramework, session_id: str, cwd: str, marks: Mapping[str, str]
) -> AsyncGenerator[SessionEnvironment]:
    """The environment that the hooks provide for a folder, closed on leaving.

    Bub keeps one per session id for as long as it runs; this one is the session's own.
    """
    inner: Environment | None = None
    for impl in reversed(_hookimpls(framework, "provide_environment")):
        found = await _ask(framework, impl, "provide_environment", session_id=session_id, workspace=Path(cwd))
        if isinstance(found, Environment):
            inner = found
            break
    environment = SessionEnvironment(inner or LocalEnvironment(cwd), marks)
    try:
        yield environment
    finally:
        try:
            async with asyncio.timeout(_HOOK_SECONDS / 5):
                await environment.close()
        except Exception as error:  # noqa: BLE001 - as for every hook
            _log_fault("environment.close", type(environment.inner).__name__, error)


def with_environment(state: TurnState, environment: SessionEnvironment) -> TurnState:
    """The state with the environment in the place where Bub's tools look for it."""
    state[ENVIRONMENT_STATE_KEY] = environment
    return state


def offered_tool(name: str) -> Tool | None:
    """A tool that Bub offers to everyone."""
    return REGISTRY.get(name)


async def run_host_tool(tool: Tool, agent: CrewAgent, state: TurnState, arguments: Mapping[str, Any]) -> str:
    """Call a tool of Bub for a session; returns what its model is to see."""
    values = dict(arguments)
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


async def end_shells(session_id: str) -> int:
    """Terminate the shells of a session: TERM, and KILL for what is still there after 3 s.

    Bub's own `terminate_session` sees only shells started under the same `running()` as its
    caller, which for a session that outlives a turn need not be the same.
    """
    mine = [shell.shell_id for shell in shell_manager._shells.values() if shell.session_id == session_id]
    ended = await asyncio.gather(*map(shell_manager.terminate, mine), return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception) and not isinstance(outcome, KeyError):
            logger.warning("crew: a shell of {} could not be ended: {!r}", session_id, outcome)
    return len(mine)
