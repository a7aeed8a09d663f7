"""Calling the crew's own hooks: plain or async, each timed, with a deadline, and written down."""

import inspect
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import anyio
import anyio.to_thread
import pluggy

from crew_plugin.hookspecs import RunEnded, RunStarting, TaskEnded, TaskStarting, Verdict
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import NewEvent

__all__ = ["Answer", "HookName", "Hooks"]

HookName = Literal["before_run_start", "before_task_start", "after_task_end", "after_run_end"]
HookEvent = RunStarting | TaskStarting | TaskEnded | RunEnded

DEADLINE = 30.0
"""Seconds that one implementation may take."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the implementations of a hook said, and the events that tell of their calls."""

    verdict: Verdict | None = None
    events: tuple[NewEvent, ...] = ()

    @property
    def refusal(self) -> Cause | None:
        """Why it was refused; None if it was not."""
        if self.verdict is None or self.verdict.allow:
            return None
        return Cause(code=CauseCode.HOOK_BLOCKED, message=self.verdict.reason or "a hook refused it")


@dataclass(frozen=True, slots=True)
class Hooks:
    """The implementations known to one plugin manager."""

    manager: pluggy.PluginManager
    deadline: float = DEADLINE

    def listens(self, name: HookName) -> bool:
        """Whether anybody implements this hook."""
        return bool(self._implementations(name))

    async def ask(self, name: HookName, event: RunStarting | TaskStarting) -> Answer:
        """The first verdict, the newest implementation asked first. Raising refuses."""
        calls = _Calls(name, event)
        for impl in self._implementations(name):
            said = await calls.make(impl, self.deadline)
            if isinstance(said, Verdict):
                return Answer(verdict=said, events=tuple(calls.events))
        return Answer(events=tuple(calls.events))

    async def tell(self, name: HookName, event: TaskEnded | RunEnded) -> tuple[NewEvent, ...]:
        """Let everybody know. What they return or raise changes nothing but the events."""
        calls = _Calls(name, event)
        for impl in self._implementations(name):
            await calls.make(impl, self.deadline)
        return tuple(calls.events)

    def _implementations(self, name: HookName) -> list[pluggy.HookImpl]:
        caller: pluggy.HookCaller = getattr(self.manager.hook, name)
        return caller.get_hookimpls()[::-1]


@dataclass(slots=True)
class _Calls:
    name: HookName
    event: HookEvent
    events: list[NewEvent] = field(default_factory=list[NewEvent])

    async def make(self, impl: pluggy.HookImpl, deadline: float) -> object:
        """What it returned; a refusing `Verdict` if it raised or took too long."""
        begun = time.perf_counter()
        said: object
        try:
            with anyio.fail_after(deadline):
                said = await _call(impl, self.event)
            outcome = _outcome(said)
        except Exception as error:
            logger.warning("the hook %s of %s raised", self.name, impl.plugin_name, exc_info=True)
            why = f"took longer than {deadline:g} s" if isinstance(error, TimeoutError) else repr(error)
            said, outcome = Verdict(allow=False, reason=f"hook of {impl.plugin_name}: {why}"), f"raised {why}"
        self.events.append(
            NewEvent(
                type="hook.executed",
                actor="supervisor",
                task_id=getattr(self.event, "task_id", None),
                data={
                    "hook": self.name,
                    "plugin": impl.plugin_name,
                    "outcome": outcome,
                    "ms": round((time.perf_counter() - begun) * 1000, 1),
                },
            )
        )
        return said


async def _call(impl: pluggy.HookImpl, event: HookEvent) -> object:
    arguments = {"event": event} if "event" in impl.argnames else {}
    function: Callable[[], object] = partial(impl.function, **arguments)
    if inspect.iscoroutinefunction(impl.function):
        said = function()
    else:
        # A plain function may sleep or read a file: not on the host's loop.
        said = await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
    return await said if inspect.isawaitable(said) else said


def _outcome(said: object) -> str:
    if isinstance(said, Verdict):
        return "allowed" if said.allow else f"refused: {said.reason}"
    return "done"
