"""What is told of a background run, and that it is told once, over any number of processes."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from crew_plugin.errors import UnknownName
from crew_plugin.models.questions import QuestionState
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore

__all__ = ["ENDED", "LOST", "Kind", "Notice", "find_notice"]

Kind = Literal["completed", "failed", "cancelled", "lost", "question"]
"""What happened."""

ENDED: Final = "ended"
LOST: Final = "lost"
_KINDS: Final[dict[RunState, Kind]] = {
    RunState.COMPLETED: "completed",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that a person should hear of."""

    run: RunRecord
    kind: Kind
    about: str
    """What it is about; nobody is told of the same twice."""
    title: str
    body: str


def find_notice(store: RunStore, run_id: str, what: str, wanted: Collection[str]) -> Notice | None:
    """What is to be told of a run that has `ended` or is `lost`, or of a question, given by its id. None
    where that is not so any more, where somebody waits for the run, or where it is not wanted."""
    try:
        run = store.load_run(run_id)
    except UnknownName:
        return None  # forgotten meanwhile
    # One agent that works alone is known by its own name.
    name = store.load_tasks(run.id)[0].agent if sum(run.task_counts.values()) == 1 else run.team
    found = _of_run(run, what, name) if what in (ENDED, LOST) else _of_question(store, run, what, name)
    return found if run.background and found is not None and found.kind in wanted else None


def _of_run(run: RunRecord, what: str, name: str) -> Notice | None:
    lost = run.owner is not None and not owner_alive(run.owner)
    if run.state in RUN_TERMINAL and what == ENDED:
        kind = _KINDS[run.state]
    elif run.state not in RUN_TERMINAL and what == LOST and lost:
        kind = "lost"
    else:
        return None
    why = f"; {run.cause.message}" if run.cause is not None else ""
    how = "its process is gone; resume or cancel it" if kind == "lost" else f"{run.goal}{why}"
    return Notice(run=run, kind=kind, about=f"{what}@{run.epoch}", title=f"crew: {name} {kind}", body=how)


def _of_question(store: RunStore, run: RunRecord, ident: str, name: str) -> Notice | None:
    question = store.load_question(ident)
    if question.state is not QuestionState.OPEN:
        return None
    return Notice(
        run=run,
        kind="question",
        about=ident,
        title=f"crew: {name} asks ({question.key})",
        body=question.text,
    )
