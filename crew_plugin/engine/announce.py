"""What a driver tells of its run: as events in the log, and to the crew's hooks."""

from collections.abc import Mapping

from crew_plugin.engine.snapshot import RESOURCE
from crew_plugin.hookspecs import RunStarting, TaskEnded
from crew_plugin.models.records import NewEvent, RunRecord, TaskRecord
from crew_plugin.models.spec import RunSpec

__all__ = ["held_back", "planned", "run_starting", "task_ended"]


def planned(spec: RunSpec, *, actor: str) -> list[NewEvent]:
    """With what a run starts, and why: its runtime and its limits."""
    runtime = {
        "kind": spec.runtime,
        "requested": spec.runtime_requested,
        "reason": spec.runtime_reason,
        "fallback": spec.runtime_fallback,
        "looked_at": list(spec.runtime_looked_at),
    }
    limits = {"width": spec.width, "limits": spec.tag_limits, "decisions": list(spec.limit_notes)}
    return [
        NewEvent(type="runtime.resolved", actor=actor, data=runtime),
        NewEvent(type="limits.resolved", actor=actor, data=limits),
    ]


def held_back(waits: Mapping[str, frozenset[str]], tasks: list[TaskRecord], *, actor: str) -> list[NewEvent]:
    """For which resources each of these tasks waits; `waits` has their tags by key."""
    return [
        NewEvent(
            type="task.held_back",
            actor=actor,
            task_id=task.id,
            data={
                "key": task.key,
                "resources": sorted(tag.removeprefix(RESOURCE) for tag in waits[task.key]),
            },
        )
        for task in tasks
    ]


def run_starting(run: RunRecord, spec: RunSpec) -> RunStarting:
    """What hooks hear before a run starts."""
    return RunStarting(
        run_id=run.id,
        goal=run.goal,
        team=run.team,
        workflow=run.workflow,
        cwd=run.cwd,
        runtime=spec.runtime,
        width=spec.width,
        wall_seconds=run.wall_seconds,
    )


def task_ended(task: TaskRecord, summary: str) -> TaskEnded:
    """What hooks hear when a task has ended."""
    return TaskEnded(
        run_id=task.run_id,
        task_id=task.id,
        key=task.key,
        state=task.state,
        cause=task.cause,
        summary=summary,
    )
