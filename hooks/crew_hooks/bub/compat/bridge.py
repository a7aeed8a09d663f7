"""Other plugins of Bub inside a session of ours: heard, bounded in time, and never the end of it.

Bub itself isolates its tool and model hooks from exceptions, the others not at all, and none
from a hook that hangs or lets a cancellation out. Here each implementation has a deadline. One
that missed it is left out for the rest of the session, so that it costs one deadline and not
one for each step; one that raises, whatever it raises, or answers nonsense is asked again. All
of it is told to the session.

Our own hooks for the conversations of Bub's user are not called for sessions.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

import asyncio
import inspect
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, cast

from bub.builtin.context import default_tape_context
from bub.environment import Environment
from bub.framework import BubFramework
from bub.hooks.interception import (
    AgentHooks,
    LlmCallDecision,
    LlmCallRequest,
    ToolCall,
    ToolCallDecision,
    ToolCallResult,
)
from bub.streaming import StreamState
from bub.tape import Tape, TapeContext
from bub.tools import render_result
from bub.turn import TurnState
from loguru import logger

from crew_hooks.bub.compat import BUILTIN
from crew_plugin.engine.intime import Late, in_time, is_ours
from crew_plugin.host import PluginActed

__all__ = ["IDENTITY", "Bridge", "Guest"]

IDENTITY: Final = "crew"
"""Under this key of the state other plugins' hooks find run, task, role, agent and session."""
_SAVE_SECONDS: Final = 1.0
"""How long all `save_state` together may hold up the end of a session."""
_FAILED: Final = object()
_MCP: Final = "bub_mcp."
_OURS: Final = "crew_hooks."


class Guest(Protocol):
    """The session that other plugins are guests of."""

    def plugin_acted(self, note: PluginActed) -> None:
        """A plugin failed, or had a say in what the session does."""
        ...

    async def call_settled(
        self, tool: str, arguments: Mapping[str, Any], plugin: str, denied: str | None
    ) -> None:
        """A plugin answered a call in the tool's place: `denied` says why, None if it gave a result."""
        ...

    def call_ended(self, result: object) -> None:
        """The call of the current task is over: this is what its model is given."""
        ...


class Bridge:
    """The hooks of other plugins as one session calls them."""

    def __init__(self, framework: BubFramework, guest: Guest, seconds: float) -> None:
        self._runtime = framework._hook_runtime
        self._guest = guest
        self._seconds = seconds
        self._left_out: set[tuple[str, str]] = set()
        self._told: set[tuple[str, str]] = set()
        self._provides: Any = None
        """Whoever provided the session's environment; None if nobody did."""

    # --- what a session is made of ---

    async def load_state(self, session_id: str, agent: object, identity: Mapping[str, str]) -> TurnState:
        """What plugins put into the state, the highest priority last. bub-mcp is left out: it would
        wait for all servers and bind all their tools; a session gets those that its agent lists."""
        state: TurnState = {}
        message = _message(session_id, identity) | {"_runtime_agent": agent}
        for impl in self.impls("load_state"):
            if not _of(impl, _MCP):
                loaded = await self.ask("load_state", impl, message=message, session_id=session_id)
                if isinstance(loaded, dict):
                    state.update(loaded)
        return state

    async def save_state(self, session_id: str, state: TurnState, output: str) -> None:
        """Let plugins put away what they keep for the session. Bub's own has nothing to put away."""
        message = _message(session_id, state.get(IDENTITY, {}))
        values = {"session_id": session_id, "state": state, "message": message, "model_output": output}
        impls = [impl for impl in self.impls("save_state") if impl.plugin_name != BUILTIN]
        if not impls:
            return
        asked = {
            asyncio.create_task(self.ask("save_state", impl, **values)): impl for impl in reversed(impls)
        }
        _, late = await asyncio.wait(asked, timeout=_SAVE_SECONDS)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_SAVE_SECONDS / 4)
        for task in late:
            why = f"took longer than {_SAVE_SECONDS:g} s, which is all there is at a session's end"
            self._tell("save_state", asked[task], "timed_out", why)

    async def environment(self, session_id: str, cwd: str) -> Environment | None:
        """What a plugin provides for the session's folder."""
        for impl in reversed(self.impls("provide_environment")):
            found = await self.ask("provide_environment", impl, session_id=session_id, workspace=Path(cwd))
            if isinstance(found, Environment):
                self._provides = impl
                return found
        return None

    def unclosed(self, environment: Environment, error: BaseException) -> None:
        """The session's environment could not be closed."""
        if self._provides is None:
            logger.warning("crew: closing {!r} failed: {!r}", environment, error)
            return
        outcome = "timed_out" if isinstance(error, Late) else "failed"
        self._tell(
            "provide_environment", self._provides, outcome, f"closing {type(environment).__name__}: {error!r}"
        )

    def system_prompts(self, prompt: str, state: TurnState, *, builtin: bool) -> Iterable[str]:
        """The blocks that plugins add to a system prompt; Bub's own among them where wanted."""
        for impl in self.impls("system_prompt"):
            if impl.plugin_name != BUILTIN or builtin:
                block = self.ask_sync("system_prompt", impl, prompt=prompt, state=state)
                if isinstance(block, str) and block:
                    yield block

    def tape_context(self) -> TapeContext:
        """How the history becomes messages: as a plugin says, or as Bub does it itself."""
        for impl in reversed(self.impls("build_tape_context")):
            context = self.ask_sync("build_tape_context", impl)
            if not isinstance(context, TapeContext):
                continue
            if impl.plugin_name == BUILTIN or context.select is None:
                return context
            return replace(context, select=partial(self._select, impl, context.select))
        return default_tape_context()

    async def continue_prompt(self, prompt: Any, tape: Tape, state: StreamState) -> str | None:
        """What a plugin wants said before the next step."""
        for impl in reversed(self.impls("continue_prompt")):
            said = await self.ask("continue_prompt", impl, prompt=prompt, tape=tape, state=state)
            if isinstance(said, str):
                return said
        return None

    def agent_hooks(self) -> AgentHooks:
        """The hooks around model and tool calls."""
        return _SessionHooks(self, self._guest)

    async def _select(
        self, impl: Any, select: Callable[..., Any], entries: Iterable[Any], context: TapeContext
    ) -> Any:
        known = list(entries)
        if self._asked("build_tape_context", impl):
            found = await self._guarded("build_tape_context", impl, lambda: select(list(known), context))
            if _are_messages(found):
                return found
            if not self.failed(found):
                self.fault("build_tape_context", impl, "selected something that is no list of messages")
        plain = default_tape_context().select
        assert plain is not None
        messages = plain(known, context)
        return await messages if inspect.isawaitable(messages) else messages

    # --- asking one of them ---

    def impls(self, hook: str) -> list[Any]:
        """Whoever implements a hook and is to be asked, from low to high priority."""
        every = reversed(self._runtime._iter_hookimpls(hook))
        return [impl for impl in every if not _of(impl, _OURS) and self._asked(hook, impl)]

    def _asked(self, hook: str, impl: Any) -> bool:
        return (hook, str(impl.plugin_name)) not in self._left_out

    async def ask(self, hook: str, impl: Any, **values: Any) -> Any:
        """The answer of one implementation; None if it fails or hangs."""
        answer = await self.called(hook, impl, values)
        return None if answer is _FAILED else answer

    async def called(self, hook: str, impl: Any, values: dict[str, Any]) -> Any:
        """As `ask`, but what failed is told apart from what said nothing: see `failed`."""
        arguments = self._runtime._kwargs_for_impl(impl, values)
        return await self._guarded(hook, impl, lambda: impl.function(**arguments))

    @staticmethod
    def failed(answer: object) -> bool:
        """Whether this is no answer."""
        return answer is _FAILED

    def ask_sync(self, hook: str, impl: Any, **values: Any) -> Any:
        """As `ask`, of a hook that Bub calls without awaiting it."""
        begun = time.monotonic()
        try:
            answer = impl.function(**self._runtime._kwargs_for_impl(impl, values))
        except BaseException as error:
            if is_ours(error):
                raise
            self.fault(hook, impl, f"{error!r}")
            return None
        self._measure(hook, impl, begun)
        if inspect.iscoroutine(answer):
            answer.close()
            self.fault(hook, impl, "is async, which Bub does not allow of this hook")
            return None
        return answer

    async def _guarded(self, hook: str, impl: Any, call: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        try:
            answer = call()
            if inspect.isawaitable(answer):
                answer = await in_time(answer, self._seconds, name="crew asks a plugin")
        except BaseException as error:
            if is_ours(error):
                raise
            if isinstance(error, Late):
                self._leave_out(hook, impl)
            else:
                self.fault(hook, impl, f"{error!r}")
            return _FAILED
        self._measure(hook, impl, begun)
        return answer

    def _measure(self, hook: str, impl: Any, begun: float) -> None:
        """A plain function cannot be stopped, but it need not hold everybody up again."""
        if time.monotonic() - begun > self._seconds:
            self._leave_out(hook, impl)

    def _leave_out(self, hook: str, impl: Any) -> None:
        self._left_out.add((hook, str(impl.plugin_name)))
        why = f"took longer than {self._seconds:g} s and is left out from now on"
        self._tell(hook, impl, "timed_out", why)

    def fault(self, hook: str, impl: Any, why: str) -> None:
        """Tell the session, once for each hook of a plugin, that it failed."""
        if (hook, str(impl.plugin_name)) not in self._told:
            self._told.add((hook, str(impl.plugin_name)))
            self._tell(hook, impl, "failed", why)

    def _tell(self, hook: str, impl: Any, outcome: str, why: str) -> None:
        logger.warning("crew: {} of {} in a session: {}: {}", hook, impl.plugin_name, outcome, why)
        self.note(hook, impl, outcome, text=why)

    def note(self, hook: str, impl: Any, outcome: str, *, tool: str = "", text: str = "") -> None:
        """Tell the session what a plugin did in it."""
        plugin = str(impl.plugin_name)
        self._guest.plugin_acted(
            PluginActed(plugin=plugin, hook=hook, outcome=outcome, tool=tool, text=text[:500])
        )


class _SessionHooks(AgentHooks):
    """Bub's hooks around model and tool calls, each within its deadline and with what it decided
    on record."""

    def __init__(self, bridge: Bridge, guest: Guest) -> None:
        super().__init__(_SessionRuntime(bridge))  # type: ignore[arg-type]  # as much of it as is used
        self._bridge = bridge
        self._guest = guest

    async def _safe_call_one(self, hook_name: str, impl: Any, kwargs: dict[str, Any]) -> Any:
        before = _of_result(kwargs)
        answer = await self._bridge.called(hook_name, impl, kwargs)
        self._settle_result(hook_name, impl, kwargs.get("result"))
        if Bridge.failed(answer):
            return None
        answer, why = _fit(answer)
        if why is not None:
            self._bridge.fault(hook_name, impl, why)
        if impl.plugin_name != BUILTIN:
            await self._note(hook_name, impl, kwargs, answer)
            if _of_result(kwargs) is not before:
                self._bridge.note(hook_name, impl, "changed", tool=kwargs["call"].tool, text="its result")
        return answer

    async def after_tool_call(self, call: ToolCall, result: ToolCallResult, state: TurnState) -> None:
        await super().after_tool_call(call, result, state)
        self._guest.call_ended(result.result)

    def _settle_result(self, hook: str, impl: Any, outcome: object) -> None:
        """What a plugin made of a result can be put before the model, and stays as it is."""
        if isinstance(outcome, ToolCallResult):
            outcome.result, why = _told(outcome.result)
            if why is not None:
                self._bridge.fault(hook, impl, why)

    async def _note(self, hook: str, impl: Any, kwargs: dict[str, Any], answer: object) -> None:
        if isinstance(answer, LlmCallDecision):
            self._bridge.note(hook, impl, "finished", text=answer.text)
        if not isinstance(answer, ToolCallDecision):
            return
        call = kwargs["call"]
        if answer.action == "proceed":
            if answer.arguments is not None and answer.arguments != call.arguments:
                self._bridge.note(hook, impl, "changed", tool=call.tool, text="its arguments")
            return
        denied = (answer.message or "no reason was given") if answer.action == "deny" else None
        outcome = "replaced" if denied is None else "denied"
        self._bridge.note(hook, impl, outcome, tool=call.tool, text=denied or "")
        await self._guest.call_settled(call.tool, call.arguments, str(impl.plugin_name), denied)


class _SessionRuntime:
    """As much of Bub's hook runtime as its hooks around calls use."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def _iter_hookimpls(self, hook: str) -> list[Any]:
        return self._bridge.impls(hook)[::-1]


def _of(impl: Any, package: str) -> bool:
    return type(impl.plugin).__module__.startswith(package)


def _are_messages(found: object) -> bool:
    """Whether a model can be sent this as its history."""
    if not isinstance(found, list):
        return False
    if not all(map(_is_message, cast("list[object]", found))):
        return False
    try:
        json.dumps(found)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_text(found: object) -> bool:
    return isinstance(found, str)


def _is_object(found: object) -> bool:
    return isinstance(found, dict) and all(map(_is_text, cast("dict[object, object]", found)))


def _is_message(found: object) -> bool:
    return _is_object(found) and _is_text(cast("dict[str, object]", found).get("role"))


def _told(result: object) -> tuple[object, str | None]:
    """A tool's result, or its text and why, where Bub could not put it before a model."""
    try:
        render_result(result)
    except Exception as error:  # noqa: BLE001 - whatever it is that a plugin gave
        why = f"gave a result that is no JSON: {error!r}"
    else:
        return result, None
    try:
        return str(result), why
    except Exception:  # noqa: BLE001 - the same
        return f"<{type(result).__name__}>", why


def _fit(answer: object) -> tuple[object, str | None]:
    """An answer as far as it can be used, and what is wrong with it."""
    match answer:
        case LlmCallRequest() if not (_are_messages(answer.messages) and _is_text(answer.model)):
            return None, "gives a request that no model can be sent"
        case LlmCallDecision() if not _is_text(answer.text):
            return None, "finishes with something that is no text"
        case ToolCallDecision(action="proceed", arguments=arguments) if arguments is not None:
            return (answer, None) if _is_object(arguments) else (None, "gives arguments that are no object")
        case ToolCallDecision(action="replace"):
            result, why = _told(answer.result)
            return replace(answer, result=result), why
        case ToolCallDecision(action="deny", message=message):
            text = None if message is None else str(message)
            return replace(answer, message=text), None
        case ToolCallDecision(action=action) if action != "proceed":
            return None, f"decides {action!r}, which there is not"
        case _:
            return answer, None


def _of_result(kwargs: Mapping[str, Any]) -> object:
    result = kwargs.get("result")
    return result.result if isinstance(result, ToolCallResult) else None


def _message(session_id: str, identity: Mapping[str, str]) -> dict[str, Any]:
    """What a session has in the place of a message from a channel."""
    context = {IDENTITY: dict(identity)}
    return {"session_id": session_id, "content": "", "channel": IDENTITY, "context": context}
