"""Answering the questions of sessions, from wherever one is. Needs a store and nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass

from crew_plugin.engine.address import find_run
from crew_plugin.errors import CallerError, NotAllowed
from crew_plugin.models.questions import QuestionRecord
from crew_plugin.models.records import ParentRef, RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.store.port import RunStore

__all__ = ["Reply", "answer_to", "open_questions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, and who gives it to whom."""

    text: str
    actor: str
    run: str | None = None
    """None for the only question that is open."""
    task: str | None = None
    force: bool = False
    caller: ParentRef | None = None
    """The host session that answers, where it is one. An operator has none and may answer any."""


def open_questions(store: RunStore, run_id: str | None = None) -> list[QuestionRecord]:
    """The questions that somebody waits for the answer of, oldest first."""
    return [
        question
        for question in store.list_questions(run_id, only_open=True)
        if store.load_run(question.run_id).state not in RUN_TERMINAL
    ]


def answer_to(store: RunStore, reply: Reply) -> QuestionRecord:
    """Answer one question. Nobody has to drive the run: the answer is kept until it goes on.

    Raises:
        InvalidValue: the answer is none of the choices.
        NotAllowed: nothing is open, or the run is somebody else's and `force` was not given.
        CallerError: several questions are open, or the run is unknown.
    """
    with store.transaction():
        question = _meant(store, reply)
        run = store.load_run(question.run_id)
        if not reply.force and _foreign(run, reply.caller):
            asked = run.parent.session if run.parent else "an operator"
            raise NotAllowed(
                f"run {run.id} belongs to {asked}, whose answer it waits for; say force to answer"
            )
        return store.answer_question(question.id, reply.text, by=reply.actor)


def _meant(store: RunStore, reply: Reply) -> QuestionRecord:
    run = None if reply.run is None else find_run(store, reply.run)
    task = None if run is None or reply.task is None else store.load_task(run.id, reply.task).key
    found = open_questions(store, None if run is None else run.id)
    found = [question for question in found if task is None or question.key == task]
    if not found and run is not None:
        # An answer that comes too late is told what became of the question.
        closed = [each for each in store.list_questions(run.id) if task is None or each.key == task]
        if closed:
            return closed[-1]
    if not found:
        others = open_questions(store)
        elsewhere = f"; open: {_names(others)}" if others else ""
        raise NotAllowed(f"no question is open{f' in run {run.id}' if run else ''}{elsewhere}")
    if len(found) > 1:
        raise CallerError(f"several questions are open; name the task of one: {_names(found)}")
    return found[0]


def _names(questions: Iterable[QuestionRecord]) -> str:
    return ", ".join(f"{question.run_id} {question.key}" for question in questions)


def _foreign(run: RunRecord, caller: ParentRef | None) -> bool:
    """Whether a host session answers for a run that it did not ask for."""
    if caller is None:
        return False
    return run.parent is None or (run.parent.host, run.parent.session) != (caller.host, caller.session)
