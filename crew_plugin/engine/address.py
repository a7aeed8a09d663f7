"""Who is meant: runs and their tasks by short names, from as little as is enough.

Needs a store and nothing else, so that a command without an event loop can use it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from crew_plugin.errors import CallerError, InvalidValue, UnknownName
from crew_plugin.models.records import RunRecord, TaskRecord
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL, RunState
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore

__all__ = ["Address", "find_address", "find_run"]

_ACTIVE = tuple(state for state in RunState if state not in RUN_TERMINAL)
_MOST_RUNS = 200
_CHOICES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One agent: a task of a run."""

    run: RunRecord
    task: TaskRecord

    def __str__(self) -> str:
        return f"{self.run.id}/{self.task.key}"


def find_run(store: RunStore, run: str | None) -> RunRecord:
    """The run that is meant; without a name, the only one that is active.

    Raises:
        CallerError: none or several are active; the message names them.
        UnknownName: no run has this name.
    """
    if run:
        return store.load_run(run)
    active = _active(store)
    if len(active) == 1:
        return active[0]
    if active:
        raise CallerError("several runs are active, name one of them: " + _listed([run.id for run in active]))
    raise CallerError(_none_active(store))


def _active(store: RunStore) -> list[RunRecord]:
    """The runs that go on. Those whose supervisor died count only while no other one is left."""
    active = store.list_runs(states=_ACTIVE, limit=_MOST_RUNS)
    alive = [run for run in active if run.owner is None or owner_alive(run.owner)]
    return alive or list(active)


def _none_active(store: RunStore) -> str:
    newest = store.list_runs(limit=1)
    hint = f"; the newest one, {newest[0].id}, is {newest[0].state}" if newest else ""
    return f"no run is active{hint}"


def find_address(store: RunStore, name: str, *, run: str | None = None) -> Address:
    """The agent that is meant by `RUN/TASK`, by the key of a task, or by a run with one task.

    A task's key alone is enough while only one active run has such a task. Raises as `find_run`.
    """
    if run:
        return _in_run(store.load_run(run), name, store)
    first, slash, rest = name.partition("/")
    if slash:
        return _in_run(store.load_run(first), rest, store)
    active = _active(store)
    having = [each for each in active if any(task.key == name for task in store.load_tasks(each.id))]
    if len(having) == 1:
        return _in_run(having[0], name, store)
    if having:
        raise CallerError(
            f"several active runs have a task {name!r}, name one of them: "
            + _listed([f"{each.id}/{name}" for each in having])
        )
    return _as_run(store, name, active)


def _as_run(store: RunStore, name: str, active: Sequence[RunRecord]) -> Address:
    """No active run has such a task: then it is the name of a run."""
    try:
        run = store.load_run(name)
    except UnknownName:
        if not active:
            raise CallerError(f"there is no agent {name!r} at work: {_none_active(store)}") from None
        choices = [f"{each.id}/{key}" for each in active for key in _keys(store, each)]
        raise UnknownName("agent", name, choices) from None
    keys = _keys(store, run)
    if len(keys) > 1:
        raise CallerError(
            f"run {run.id} has {len(keys)} tasks, name one of them: "
            + _listed([f"{run.id}/{key}" for key in keys])
        )
    return Address(run=run, task=store.load_task(run.id, keys[0]))


def _in_run(run: RunRecord, key: str, store: RunStore) -> Address:
    if not key:
        raise InvalidValue("task", key, _keys(store, run))
    return Address(run=run, task=store.load_task(run.id, key))


def _keys(store: RunStore, run: RunRecord) -> list[str]:
    """The tasks of a run, those that have not ended first."""
    tasks = sorted(store.load_tasks(run.id), key=lambda task: task.state in TASK_TERMINAL)
    return [task.key for task in tasks]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _CHOICES} more" if len(names) > _CHOICES else ""
    return ", ".join(names[:_CHOICES]) + more
