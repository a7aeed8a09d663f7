"""The crew's own hooks: pluggy namespace `crew`, one function and one frozen event for each.

Each docstring says when the hook fires, what the return value does, who owns the argument, and
what happens if an implementation raises. New facts go into an event, never into a parameter.
"""

from dataclasses import dataclass

import pluggy

from crew_plugin.models.causes import Cause

__all__ = [
    "NAMESPACE",
    "CrewSpecs",
    "RunEnded",
    "RunStarting",
    "TaskEnded",
    "TaskStarting",
    "Verdict",
    "hookimpl",
    "hookspec",
]

NAMESPACE = "crew"
hookspec = pluggy.HookspecMarker(NAMESPACE)
hookimpl = pluggy.HookimplMarker(NAMESPACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a deciding hook wants."""

    allow: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarting:
    """A run is about to start."""

    run_id: str
    goal: str
    team: str
    workflow: str
    cwd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarting:
    """A task is about to start."""

    run_id: str
    task_id: str
    key: str
    role: str
    agent: str
    attempt: int


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


class CrewSpecs:
    """Register implementations with `crew_plugin.hookspecs.hookimpl`, in a module or object that
    the entry point group `crew_plugin` names."""

    @hookspec(firstresult=True)
    def before_run_start(self, event: RunStarting) -> Verdict | None:
        """Fires once a run is claimed, before its first task.

        The first verdict wins; None lets the next implementation speak, silence allows. A
        refusal ends the run `failed` with the reason. The event is yours to read and keep. If
        you raise, the run is refused with your error.
        """

    @hookspec(firstresult=True)
    def before_task_start(self, event: TaskStarting) -> Verdict | None:
        """Fires before each attempt of a task.

        The first verdict wins; silence allows. A refusal makes the task `skipped` with the
        reason. The event is yours to read and keep. If you raise, the task is refused with
        your error.
        """

    @hookspec
    def after_task_end(self, event: TaskEnded) -> None:
        """Fires after a task's end was written down. The return value is ignored. If you raise,
        the error is noted on the run's events and the run goes on."""

    @hookspec
    def after_run_end(self, event: RunEnded) -> None:
        """Fires after a run's end was written down. The return value is ignored. If you raise,
        the error is noted on the run's events."""
