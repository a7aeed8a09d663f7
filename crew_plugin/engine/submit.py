"""A plan as it is first written down."""

from crew_plugin.models.records import NewRun, NewTask, ParentRef
from crew_plugin.models.spec import RunSpec

__all__ = ["new_run_of", "new_tasks_of"]


def new_run_of(spec: RunSpec, *, parent: ParentRef | None, background: bool) -> NewRun:
    """The run."""
    return NewRun(
        goal=spec.goal,
        team=spec.team,
        workflow=spec.workflow,
        cwd=spec.cwd,
        spec=spec.model_dump_json(),
        background=background,
        parent=parent,
        wall_seconds=spec.wall_seconds,
        runtime=spec.runtime,
        runtime_note=spec.runtime_reason if spec.runtime_fallback else "",
    )


def new_tasks_of(spec: RunSpec, *, max_dispatches: int) -> list[NewTask]:
    """Its tasks, one for each step."""
    return [
        NewTask(
            key=step.id,
            title=step.title or step.id,
            role=step.role,
            agent=step.agent,
            depends_on=step.depends_on,
            optional=step.optional,
            attention_pass=step.attention == "pass",
            max_dispatches=max_dispatches,
            spec=step.model_dump_json(),
        )
        for step in spec.steps
    ]
