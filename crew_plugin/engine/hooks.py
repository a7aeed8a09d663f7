"""Calling the crew's own hooks: plain or async, each timed, with a deadline, and written down."""

import asyncio
import inspect
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, cast

import anyio
import pluggy

from crew_plugin.engine.intime import Late, in_time, is_ours
from crew_plugin.errors import CrewError
from crew_plugin.hookspecs import (
    CHANGEABLE,
    Cancelling,
    ConversationChanging,
    Publishing,
    Recovering,
    Removing,
    Retrying,
    RunEnded,
    RunStarting,
    SessionClosed,
    SessionOpened,
    TaskEnded,
    TaskResult,
    TaskStarting,
    Verdict,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import NewEvent

__all__ = ["SECONDS", "Answer", "Asking", "Deed", "HookName", "Hooks", "Telling"]

Deed = Retrying | Removing | Publishing | Recovering
"""What somebody is about to do to a run that nobody drives."""
Asking = RunStarting | TaskStarting | Cancelling | Deed
Telling = Asking | TaskResult | TaskEnded | RunEnded | SessionOpened | SessionClosed | ConversationChanging
HookName = Literal[
    "before_run_start",
    "before_task_start",
    "before_cancel",
    "before_retry",
    "before_forget",
    "before_cleanup",
    "before_publish",
    "run_recovery",
    "task_result",
    "after_task_end",
    "after_run_end",
    "session_connected",
    "session_disconnected",
    "session_before_switch",
]

SECONDS: Final = 10.0
"""What one implementation may take where nothing else is said."""
_THREADS: Final = 64
"""Calls of plain functions that may be under way at once; beyond, they are not made."""
_SHOWN: Final = 500

logger = logging.getLogger(__name__)


class _Unfit(CrewError):
    """What a hook returned cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the deciding implementations of a hook said, and the events that tell of their calls."""

    refusal: Cause | None = None
    """Why it was refused; None if it was not."""
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the event with what they are to be instead."""
    events: tuple[NewEvent, ...] = ()


class Hooks:
    """The implementations known to one plugin manager."""

    def __init__(self, manager: pluggy.PluginManager, seconds: float = SECONDS) -> None:
        self._manager = manager
        self._seconds = seconds
        self._threads = _Threads()

    def decides(self, name: HookName) -> bool:
        """Whether anybody implements this hook who is to be waited for."""
        return bool(self._implementations(name, blocking=True))

    def watched(self, name: HookName) -> bool:
        """Whether anybody implements this hook who only watches."""
        return bool(self._implementations(name, blocking=False))

    async def ask(self, name: HookName, event: Asking, *, most: float | None = None) -> Answer:
        """Ask everybody, the newest first, each with what the ones before changed. The first
        refusal counts; whoever raises, hangs (for longer than `most`) or answers nonsense refuses."""
        seconds = self._seconds if most is None else min(most, self._seconds)
        changes: dict[str, Any] = {}
        events: list[NewEvent] = []
        for impl in self._implementations(name, blocking=True):
            called = await self._call(name, impl, event, seconds=seconds, blocking=True)
            events.append(called.noted)
            if not called.verdict.allow:
                message = called.verdict.reason or f"the hook of {impl.plugin_name} refused it"
                return Answer(
                    refusal=Cause(code=CauseCode.HOOK_BLOCKED, message=message), events=tuple(events)
                )
            changes |= called.verdict.changes
            event = replace(event, **called.verdict.changes)
        return Answer(changes=changes, events=tuple(events))

    async def tell(self, name: HookName, event: Telling) -> tuple[NewEvent, ...]:
        """Let all watchers know, at the same time. What they return or raise changes nothing but
        the events."""
        events: list[NewEvent] = []

        async def one(impl: pluggy.HookImpl) -> None:
            called = await self._call(name, impl, event, seconds=self._seconds, blocking=False)
            events.append(called.noted)

        async with anyio.create_task_group() as group:
            for impl in self._implementations(name, blocking=False):
                group.start_soon(one, impl)
        return tuple(events)

    async def allow(
        self, name: HookName, event: Deed, *, most: float | None = None
    ) -> tuple[str | None, tuple[NewEvent, ...]]:
        """Ask whoever decides and tell whoever watches. Returns why it was refused, or None, and the
        events that tell of the calls."""
        told = await self.tell(name, event)
        answer = await self.ask(name, event, most=most)
        return (None if answer.refusal is None else answer.refusal.message), (*told, *answer.events)

    def _implementations(self, name: HookName, *, blocking: bool) -> list[pluggy.HookImpl]:
        caller: pluggy.HookCaller = getattr(self._manager.hook, name)
        return [impl for impl in caller.get_hookimpls()[::-1] if _blocks(name, impl) is blocking]

    async def _call(
        self, name: HookName, impl: pluggy.HookImpl, event: Telling, *, seconds: float, blocking: bool
    ) -> "_Called":
        begun = time.perf_counter()
        try:
            said = await in_time(self._said(impl, event), seconds, name=f"hook of {impl.plugin_name}")
            verdict = _fit(name, said, event) if blocking else _heard(said)
            outcome = _outcome(verdict)
        except BaseException as error:
            if is_ours(error):
                raise
            outcome, why = _fault(error)
            logger.warning("the hook %s of %s: %s", name, impl.plugin_name, why, exc_info=True)
            verdict = Verdict(allow=False, reason=f"the hook of {impl.plugin_name} {why}")
        data = {
            "hook": name,
            "plugin": impl.plugin_name,
            "blocking": blocking,
            "outcome": outcome,
            "reason": verdict.reason[:_SHOWN],
            "changed": sorted(verdict.changes),
            "diagnostic": verdict.diagnostic[:_SHOWN],
            "ms": round((time.perf_counter() - begun) * 1000, 1),
        }
        task_id: str | None = getattr(event, "task_id", None)
        noted = NewEvent(type="hook.executed", actor="supervisor", task_id=task_id, data=data)
        return _Called(verdict, noted)

    async def _said(self, impl: pluggy.HookImpl, event: Telling) -> object:
        arguments = {"event": event} if "event" in impl.argnames else {}
        function: Callable[[], object] = partial(impl.function, **arguments)
        if inspect.iscoroutinefunction(impl.function):
            said = function()
        else:
            # A plain function may sleep or read a file: not on the host's loop.
            said = await self._threads.run(function, impl.plugin_name)
        return await said if inspect.isawaitable(said) else said


@dataclass(frozen=True, slots=True)
class _Called:
    verdict: Verdict
    noted: NewEvent


class _Threads:
    """Runs plain functions beside the loop. A thread whose function never returns is left alone
    and ends with the process, which does not wait for it: pooled threads are waited for."""

    def __init__(self) -> None:
        self._busy = 0
        self._lock = threading.Lock()  # `_busy` is counted down by the threads themselves
        self._numbers = itertools.count(1)

    async def run(self, function: Callable[[], object], plugin: str) -> object:
        """What the function returns or raises. Cancelled, the function goes on unheard."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[object] = loop.create_future()
        with self._lock:
            if self._busy >= _THREADS:
                raise _Unfit(f"was not called: {self._busy} calls of hooks have not returned")
            self._busy += 1

        def work() -> None:
            give: Callable[[], None]
            try:
                give = partial(_give, answer, function())
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                give = partial(_raise, answer, error)
            with self._lock:
                self._busy -= 1
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(give)

        name = f"hook of {plugin}, call {next(self._numbers)}"
        threading.Thread(target=work, name=name, daemon=True).start()
        return await answer


def _give(answer: "asyncio.Future[object]", value: object) -> None:
    if not answer.done():
        answer.set_result(value)


def _raise(answer: "asyncio.Future[object]", error: BaseException) -> None:
    if not answer.done():
        # Such as StopIteration, which a future does not take, and SystemExit.
        known = isinstance(error, Exception) and not isinstance(error, StopIteration)
        answer.set_exception(error if known else RuntimeError(repr(error)))


def _blocks(name: HookName, impl: pluggy.HookImpl) -> bool:
    return name in CHANGEABLE and not getattr(impl.function, "crew_non_blocking", False)


def _fault(error: BaseException) -> tuple[str, str]:
    if isinstance(error, Late):
        return "timed_out", str(error)
    if isinstance(error, _Unfit):
        return "unfit", str(error)
    return "raised", f"raised {error!r}"


def _heard(said: object) -> Verdict:
    """Of what a watcher says only the diagnostic counts. Raises `_Unfit`."""
    return Verdict(diagnostic=_texts(said).diagnostic) if isinstance(said, Verdict) else Verdict()


def _texts(said: Verdict) -> Verdict:
    for text in cast("tuple[object, ...]", (said.reason, said.diagnostic)):
        if not isinstance(text, str):
            raise _Unfit(f"gives {text!r} where a text is expected"[:_SHOWN])
    return said


def _outcome(verdict: Verdict) -> str:
    if not verdict.allow:
        return "blocked"
    if verdict.changes:
        return "modified"
    return "diagnostic" if verdict.diagnostic else "allowed"


def _fit(name: HookName, said: object, event: Telling) -> Verdict:
    """The verdict, every change of it checked. Raises `_Unfit`."""
    if said is None:
        return Verdict()
    if not isinstance(said, Verdict):
        raise _Unfit(f"returned {said!r} where a Verdict or None is expected"[:_SHOWN])
    _texts(said)
    allowed = CHANGEABLE[name]
    changes: dict[str, Any] = {}
    for key, value in said.changes.items():
        if key not in allowed:
            known = ", ".join(allowed) or "nothing"
            raise _Unfit(f"wants to change {key!r}; {name} can change {known}")
        changes[key] = _CHECKS[allowed[key]](key, value, getattr(event, key))
    return replace(said, changes=changes)


def _text(key: str, value: object, _: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Unfit(f"gives {key} something else than a text")
    return value


def _name(key: str, value: object, _: object) -> str | None:
    return None if value is None else _text(key, value, _)


def _names(key: str, value: object, _: object) -> tuple[str, ...]:
    names = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [None]
    found = tuple(name for name in names if isinstance(name, str))
    if len(found) < len(names):
        raise _Unfit(f"gives {key} something else than a list of names")
    return found


def _lower(key: str, value: object, before: object) -> int | float:
    whole = isinstance(before, int)
    number = value if isinstance(value, int if whole else (int, float)) else 0
    if isinstance(value, bool) or not 0 < number < math.inf:  # as nan is not
        raise _Unfit(f"gives {key} something else than a {'whole ' if whole else ''}number above 0")
    if isinstance(before, int | float) and number > before:
        raise _Unfit(f"wants to raise {key} from {before:g} to {number:g}; it can only be lowered")
    return number


_CHECKS: Final[Mapping[str, Callable[[str, object, object], Any]]] = {
    "text": _text,
    "name": _name,
    "names": _names,
    "lower": _lower,
}
