"""The crew's own hooks: pluggy namespace `crew`, one function and one frozen event for each.

Each docstring says when the hook fires, what the return value does, who owns the argument, and
what happens if an implementation raises. New facts go into an event, never into a parameter.

The hooks of `DECIDING` are waited for and can stop or change what is about to happen; one of
their implementations that is marked `non_blocking` only watches. All others only watch. Watchers
run beside the run and beside each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

import pluggy

from crew_plugin.models.causes import Cause

__all__ = [
    "CHANGEABLE",
    "DECIDING",
    "NAMESPACE",
    "Cancelling",
    "ConversationChanging",
    "CrewSpecs",
    "Publishing",
    "Recovering",
    "Removing",
    "Retrying",
    "RunEnded",
    "RunStarting",
    "SessionClosed",
    "SessionOpened",
    "TaskEnded",
    "TaskResult",
    "TaskStarting",
    "Verdict",
    "hookimpl",
    "hookspec",
    "non_blocking",
]

NAMESPACE = "crew"
hookspec = pluggy.HookspecMarker(NAMESPACE)
hookimpl = pluggy.HookimplMarker(NAMESPACE)


def non_blocking[F: Callable[..., object]](function: F) -> F:
    """Mark an implementation of a deciding hook that only watches: nothing waits for it, and what
    it returns or raises is noted and changes nothing."""
    function.__dict__["crew_non_blocking"] = True
    return function


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an implementation of a deciding hook wants. One that only watches can leave a
    `diagnostic`."""

    allow: bool = True
    reason: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    diagnostic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarting:
    """A run is about to start."""

    run_id: str
    goal: str
    team: str
    workflow: str
    cwd: str
    runtime: str
    width: int
    wall_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarting:
    """A task is about to start."""

    run_id: str
    task_id: str
    key: str
    role: str
    agent: str
    attempt: int
    task: str
    model: str | None
    skills: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """An attempt has ended, and there is a result of it."""

    run_id: str
    task_id: str
    key: str
    result_id: str
    summary: str
    data: Any
    error: str | None
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded:
    """An attempt of a task has ended."""

    run_id: str
    task_id: str
    key: str
    state: str
    cause: Cause | None
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """A run has ended."""

    run_id: str
    state: str
    cause: Cause | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelling:
    """Somebody asked for a run, or one task of it, to be cancelled."""

    run_id: str
    task_id: str | None
    key: str | None
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """Somebody asked for tasks of a run to be tried again."""

    run_id: str
    keys: tuple[str, ...]
    """Of the tasks that were named; empty for all that can be."""
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removing:
    """Somebody is about to delete a run, or what is left of one."""

    run_id: str | None
    """None for what is left of all runs of the project."""
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing:
    """Somebody is about to write a run into a file that can be given away."""

    run_id: str
    file: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovering:
    """A run whose supervisor is gone is about to be gone on with by this process."""

    run_id: str
    epoch: int
    """Under which it was driven last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    """A session of the crew was opened."""

    run_id: str
    task_id: str | None
    key: str | None
    attempt_id: str | None
    kind: str
    agent: str
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed:
    """A session of the crew was left."""

    run_id: str
    task_id: str | None
    key: str | None
    attempt_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationChanging:
    """The host turns to another conversation than the one that asked for a run under way."""

    run_id: str
    host: str
    asked_from: str
    turns_to: str


type _Kind = Literal["text", "name", "names", "lower"]

CHANGEABLE: Final[Mapping[str, Mapping[str, _Kind]]] = MappingProxyType(
    {
        "before_run_start": MappingProxyType({"width": "lower", "wall_seconds": "lower"}),
        "before_task_start": MappingProxyType({"task": "text", "model": "name", "skills": "names"}),
        "before_cancel": MappingProxyType[str, _Kind]({}),
        "before_retry": MappingProxyType[str, _Kind]({}),
        "before_forget": MappingProxyType[str, _Kind]({}),
        "before_cleanup": MappingProxyType[str, _Kind]({}),
        "before_publish": MappingProxyType[str, _Kind]({}),
        "run_recovery": MappingProxyType[str, _Kind]({}),
    }
)
"""By deciding hook: the fields of its event that a verdict may change, and what each may become.
A number can only be lowered."""

DECIDING: Final = frozenset(CHANGEABLE)
"""The hooks that are waited for."""


class CrewSpecs:
    """Register implementations with `crew_plugin.hookspecs.hookimpl`: in a module or object that
    the entry point group `crew_plugin` names, or in a file of a trusted project's `.crew/hooks`."""

    @hookspec
    def before_run_start(self, event: RunStarting) -> Verdict | None:
        """Fires once a run is claimed, before its first task.

        Every implementation is asked; the first refusal ends the run `failed` with its reason.
        The event is yours to read and keep. If you raise, the run is refused with your error.
        """

    @hookspec
    def before_task_start(self, event: TaskStarting) -> Verdict | None:
        """Fires before each attempt of a task.

        Every implementation is asked; the first refusal makes the task `skipped` with its
        reason. The event is yours to read and keep. If you raise, the task is refused with your
        error.
        """

    @hookspec
    def before_cancel(self, event: Cancelling) -> Verdict | None:
        """Fires when somebody asks for a cancellation without `force`, before anything is stopped.

        Every implementation is asked; the first refusal refuses the request with its reason, and
        nothing is stopped. The event is yours to read and keep. If you raise, the request is
        refused with your error. Not asked: what ends with its process or its turn, or by a limit.
        """

    @hookspec
    def before_retry(self, event: Retrying) -> Verdict | None:
        """Fires when somebody asks for tasks to be tried again, before anything is queued.

        Every implementation is asked; the first refusal refuses the request with its reason, and
        nothing is changed. If you raise, the request is refused with your error. Not asked: what the
        retry policy tries again by itself.
        """

    @hookspec
    def before_forget(self, event: Removing) -> Verdict | None:
        """Fires before an ended run is deleted for good, by name or by pruning, once it is confirmed.

        Every implementation is asked; the first refusal keeps the run. If you raise, it is kept.
        """

    @hookspec
    def before_cleanup(self, event: Removing) -> Verdict | None:
        """Fires before what nothing owns any more is removed, once it is confirmed.

        Every implementation is asked; the first refusal leaves all of it where it is. If you raise,
        it is left.
        """

    @hookspec
    def before_publish(self, event: Publishing) -> Verdict | None:
        """Fires before a run is exported into a file.

        Every implementation is asked; after the first refusal nothing is written. If you raise,
        nothing is written.
        """

    @hookspec
    def run_recovery(self, event: Recovering) -> Verdict | None:
        """Fires before a process goes on with a run whose supervisor is gone.

        Every implementation is asked; after the first refusal the run stays as it is. If you raise,
        it stays.
        """

    @hookspec
    def task_result(self, event: TaskResult) -> Verdict | None:
        """Fires after the result of an attempt was written down. Watches only; what you raise is
        noted on the run's events."""

    @hookspec
    def after_task_end(self, event: TaskEnded) -> Verdict | None:
        """Fires after a task's end was written down. Watches only; what you raise is noted on the
        run's events and the run goes on."""

    @hookspec
    def after_run_end(self, event: RunEnded) -> Verdict | None:
        """Fires after a run's end was written down. Watches only; what you raise is noted on the
        run's events."""

    @hookspec
    def session_connected(self, event: SessionOpened) -> Verdict | None:
        """Fires after a session of the crew was opened. Watches only; what you raise is noted on
        the run's events."""

    @hookspec
    def session_disconnected(self, event: SessionClosed) -> Verdict | None:
        """Fires after a session of the crew was left. Watches only; what you raise is noted on
        the run's events."""

    @hookspec
    def session_before_switch(self, event: ConversationChanging) -> Verdict | None:
        """Fires when the host begins a turn of another conversation than the one that asked for a
        run which is under way, once for each change and run. Watches only: a host does not let
        itself be held up. What you raise is noted on the run's events."""
