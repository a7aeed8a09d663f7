"""Questions of sessions. A task waits exactly as long as one of its questions is not closed."""

import sqlite3
import time

from crew_plugin.errors import IllegalTransition, InvalidValue, NotAllowed
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.ids import new_id
from crew_plugin.models.questions import NewQuestion, QuestionRecord, QuestionState
from crew_plugin.models.records import Lease
from crew_plugin.models.states import RUN_TERMINAL, AttemptState, RunState, TaskState
from crew_plugin.store.connection import Value
from crew_plugin.store.rows import dump, load, text
from crew_plugin.store.tasks import Tasks

__all__ = ["Questions"]

_SELECT = "SELECT question.*, task.key FROM question JOIN task ON task.id = question.task_id"


class Questions(Tasks):
    """Asking needs the lease; answering does not, so that an answer counts while nobody drives the run."""

    def ask_question(
        self, lease: Lease, attempt_id: str, question: NewQuestion, *, actor: str
    ) -> QuestionRecord:
        """Write a question down; its attempt and task become `waiting`, with `task.waiting`."""
        with self._change():
            self._fence(lease)
            attempt = self._row_of("attempt", attempt_id)
            if attempt is None or attempt["run_id"] != lease.run_id:
                raise self._unknown("attempt", attempt_id)
            if attempt["state"] != AttemptState.RUNNING or self.list_questions(
                attempt_id=attempt_id, only_open=True
            ):
                raise IllegalTransition("attempt", attempt_id, attempt["state"], "waiting")
            question_id, task_id = new_id("ask"), str(attempt["task_id"])
            self._execute(
                "INSERT INTO question (id, run_id, task_id, attempt_id, text, choices, fallback, state,"
                " asked_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    question_id,
                    lease.run_id,
                    task_id,
                    attempt_id,
                    text(question.text),
                    dump([text(choice) for choice in question.choices]),
                    None if question.default is None else text(question.default),
                    QuestionState.OPEN,
                    time.time(),
                    question.expires_at,
                ),
            )
            cause = Cause(code=CauseCode.HELD, message=text(question.text))
            data = {
                "question_id": question_id,
                "question": text(question.text),
                "choices": [text(choice) for choice in question.choices],
                "until": question.expires_at,
            }
            self._pause(lease, task_id, attempt_id, TaskState.WAITING, actor, cause, data)
            return self.load_question(question_id)

    def answer_question(self, question_id: str, answer: str, *, by: str) -> QuestionRecord:
        """Answer an open question, once, with `question.answered`. The task stays `waiting` until
        whoever drives the run has closed it.

        Raises:
            InvalidValue: it is none of the choices.
            NotAllowed: it is not open any more, or its run has ended.
        """
        with self._change():
            question = self.load_question(question_id)
            run = self._run_row(question.run_id)
            if question.state is not QuestionState.OPEN or RunState(run["state"]) in RUN_TERMINAL:
                raise NotAllowed(f"the question of {question.key} is {_no_longer(question)}")
            said = _chosen(question, answer)
            self._execute(
                "UPDATE question SET state = ?, answer = ?, answered_by = ?, closed_at = ? WHERE id = ?",
                (QuestionState.ANSWERED, text(said), text(by), time.time(), question_id),
            )
            self._append(
                question.run_id,
                run["epoch"],
                "question.answered",
                by,
                task_id=question.task_id,
                attempt_id=question.attempt_id,
                data={"question_id": question_id, "answer": text(said)},
            )
            return self.load_question(question_id)

    def close_question(
        self, lease: Lease, question_id: str, state: QuestionState, *, actor: str, reason: str | None = None
    ) -> QuestionRecord:
        """The session goes on. An open question becomes `state`, an answered one stays answered;
        a task that waits for it is `running` again, with `task.resumed`."""
        with self._change():
            self._fence(lease)
            question = self.load_question(question_id)
            if question.run_id != lease.run_id:
                raise self._unknown("question", question_id)
            if question.state is QuestionState.OPEN:
                if self._task_of(lease, question.task_id).state is not TaskState.WAITING:
                    raise IllegalTransition("question", question_id, "open without a waiting task", state)
                self._execute(
                    "UPDATE question SET state = ?, reason = ?, closed_at = ? WHERE id = ?",
                    (state, None if reason is None else text(reason), time.time(), question_id),
                )
                question = self.load_question(question_id)
            others = self.list_questions(attempt_id=question.attempt_id, only_open=True)
            task = self._task_of(lease, question.task_id)
            if task.state is TaskState.WAITING and task.attempt_id == question.attempt_id and not others:
                data = {"question_id": question_id, "outcome": str(question.state)}
                self._pause(
                    lease, question.task_id, question.attempt_id, TaskState.RUNNING, actor, None, data
                )
            return question

    def tell_question(self, question_id: str, *, actor: str) -> bool:
        """Note, once, that an open question is being put to whoever asked for its run, with
        `question.told`. False if it is not open any more or was put to them before."""
        with self._change():
            question = self.load_question(question_id)
            run = self._run_row(question.run_id)
            changed = self._execute(
                "UPDATE question SET told_at = ? WHERE id = ? AND state = ? AND told_at IS NULL",
                (time.time(), question_id, QuestionState.OPEN),
            )
            if not changed.rowcount:
                return False
            self._append(
                question.run_id,
                run["epoch"],
                "question.told",
                actor,
                task_id=question.task_id,
                attempt_id=question.attempt_id,
                data={"question_id": question_id},
            )
            return True

    def load_question(self, question_id: str) -> QuestionRecord:
        """One question as it stands. Raises `UnknownName`."""
        row = self._first(f"{_SELECT} WHERE question.id = ?", (question_id,))
        if row is None:
            raise self._unknown("question", question_id)
        return _question(row)

    def list_questions(
        self, run_id: str | None = None, *, attempt_id: str | None = None, only_open: bool = False
    ) -> list[QuestionRecord]:
        """The questions of a run, of an attempt, or of all runs, oldest first. Open ones of runs
        that have ended are not open any more."""
        where: list[str] = []
        values: list[Value] = []
        if run_id is not None:
            where.append("question.run_id = ?")
            values.append(run_id)
        if attempt_id is not None:
            where.append("question.attempt_id = ?")
            values.append(attempt_id)
        if only_open:
            where.append("question.state = ?")
            values.append(QuestionState.OPEN)
        condition = f" WHERE {' AND '.join(where)}" if where else ""
        return [_question(row) for row in self._all(f"{_SELECT}{condition} ORDER BY question.n", (*values,))]

    def _withdraw_questions(self, lease: Lease, attempt_id: str, *, actor: str) -> None:
        """The attempt ends: nobody waits for an answer any more."""
        for question in self.list_questions(attempt_id=attempt_id, only_open=True):
            self._execute(
                "UPDATE question SET state = ?, reason = ?, closed_at = ? WHERE id = ?",
                (QuestionState.WITHDRAWN, "its session ended", time.time(), question.id),
            )
            self._append(
                lease.run_id,
                lease.epoch,
                "question.withdrawn",
                actor,
                task_id=question.task_id,
                attempt_id=attempt_id,
                data={"question_id": question.id},
            )


def _chosen(question: QuestionRecord, answer: str) -> str:
    said = answer.strip()
    if not said:
        raise InvalidValue("answer", answer, "some text")
    if not question.choices:
        return said
    for choice in question.choices:
        if choice.strip().casefold() == said.casefold():
            return choice
    raise InvalidValue("answer", answer, question.choices)


def _no_longer(question: QuestionRecord) -> str:
    match question.state:
        case QuestionState.ANSWERED:
            return f"answered already, by {question.by}: {question.answer!r}"
        case QuestionState.OPEN:
            return "not open any more: its run has ended"
        case _:
            return f"not open any more: {question.state}{f', {question.reason}' if question.reason else ''}"


def _question(row: sqlite3.Row) -> QuestionRecord:
    return QuestionRecord(
        id=row["id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        key=row["key"],
        attempt_id=row["attempt_id"],
        text=row["text"],
        choices=tuple(load(row["choices"])),
        default=row["fallback"],
        state=QuestionState(row["state"]),
        answer=row["answer"],
        by=row["answered_by"],
        reason=row["reason"],
        asked_at=row["asked_at"],
        expires_at=row["expires_at"],
        closed_at=row["closed_at"],
    )
