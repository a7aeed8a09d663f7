"""Trying failed tasks again, from wherever one is: in a run that ended, or in one that goes on.

Needs a store and nothing else, so that a command without an event loop can use it too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crew_plugin.engine.cancel import is_foreign, whose
from crew_plugin.errors import CallerError, InvalidValue, NotAllowed
from crew_plugin.models.records import ControlRecord, ControlState, ControlVerb, Owner, ParentRef, RunRecord
from crew_plugin.models.states import RUN_RETRYABLE, RUN_TERMINAL, TASK_RETRYABLE
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore

__all__ = ["Again", "Retried", "changed_spec", "keys_in", "reopen_or_ask", "retried_in_place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Who wants which tasks tried again, and how."""

    run: str
    actor: str
    tasks: tuple[str, ...] = ()
    """Their keys; none for every task that can be retried."""
    model: str | None = None
    """Another model for them."""
    text: str = ""
    """What is added to their task."""
    force: bool = False
    caller: ParentRef | None = None
    """The host session that asks, where it is one."""

    def payload(self, keys: Sequence[str]) -> Mapping[str, Any]:
        """What is written down of it for the run's supervisor."""
        return {"tasks": list(keys), "model": self.model, "text": self.text, "force": self.force}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What came of it."""

    run_id: str
    tasks: tuple[str, ...]
    """The tasks that were asked for."""
    in_place: bool
    """Its supervisor goes on with them; else whoever asked has to drive the run."""


def reopen_or_ask(store: RunStore, again: Again, me: Owner) -> Retried | ControlRecord:
    """In one transaction: the run is open again, or its supervisor is asked to try the tasks again.

    Raises:
        InvalidValue: a task cannot be retried; names those that can.
        NotAllowed: the run is somebody else's and `force` was not given, or nobody drives it.
        CallerError: nothing in it can be retried.
    """
    with store.transaction():
        run = store.load_run(again.run)
        if is_foreign(run, again.caller, me) and not again.force:
            raise NotAllowed(whose(run, "retry its tasks"))
        keys = _keys(store, run, again.tasks)
        if run.state in RUN_RETRYABLE:
            spec = changed_spec(run.spec, keys, model=again.model, text=again.text)
            store.reopen_run(run.id, keys, actor=again.actor, spec=spec)
            return Retried(run_id=run.id, tasks=keys, in_place=False)
        if run.state in RUN_TERMINAL:
            raise CallerError(f"run {run.id} is {run.state}: nothing in it failed")
        if run.owner is None or not owner_alive(run.owner):
            raise NotAllowed(
                f"nobody drives run {run.id} now, so nothing of it can be retried; cancel it to close it, "
                "then retry what it lost"
            )
        return store.request_control(
            run.id, ControlVerb.RETRY, actor=again.actor, payload=again.payload(keys)
        )


def retried_in_place(store: RunStore, control: ControlRecord) -> Retried | None:
    """What the supervisor made of the request; None while it has not answered. Raises `NotAllowed`."""
    now = store.load_control(control.id)
    if now.state is ControlState.PENDING:
        if store.load_run(control.run_id).state in RUN_TERMINAL:
            raise NotAllowed("the run ended just then; retry it as it stands now")
        return None
    if now.state is ControlState.REFUSED:
        raise NotAllowed(now.answer or "its supervisor refused")
    return Retried(run_id=control.run_id, tasks=keys_in(control), in_place=True)


def keys_in(control: ControlRecord) -> tuple[str, ...]:
    """The tasks that a request names."""
    return tuple(map(str, control.payload.get("tasks") or ()))


def changed_spec(spec: str, keys: Sequence[str], *, model: str | None = None, text: str = "") -> str | None:
    """The plan with another model, or with words added to these tasks; None if nothing changes."""
    if model is None and not text.strip():
        return None
    from crew_plugin.models.spec import RunSpec

    plan = RunSpec.model_validate_json(spec)
    steps = tuple(
        step.model_copy(
            update={
                "model": model or step.model,
                "task": f"{step.task}\n\nAdded for this attempt:\n{text.strip()}"
                if text.strip()
                else step.task,
            }
        )
        if step.id in keys
        else step
        for step in plan.steps
    )
    return plan.model_copy(update={"steps": steps}).model_dump_json()


def _keys(store: RunStore, run: RunRecord, wanted: Sequence[str]) -> tuple[str, ...]:
    can = [task.key for task in store.load_tasks(run.id) if task.state in TASK_RETRYABLE]
    if not can:
        raise CallerError(
            f"no task of run {run.id} failed, needs attention or was cancelled: nothing to retry"
        )
    for key in wanted:
        task = store.load_task(run.id, key)
        if task.state not in TASK_RETRYABLE:
            raise InvalidValue("task", f"{task.key} ({task.state})", can)
    return tuple(store.load_task(run.id, key).key for key in dict.fromkeys(wanted)) or tuple(can)
