"""A session that waits for the answer to a question: the wait has an owner, an end and a record.

The question is a row of the store, so an answer may come from any process, and counts while
nobody drives the run. The clocks of the session stand still meanwhile; the run's own does not.
"""

import time
from typing import Final

import anyio

from crew_plugin.errors import IllegalTransition, NotAllowed
from crew_plugin.models.questions import NewQuestion, QuestionRecord, QuestionState
from crew_plugin.session.course import Course
from crew_plugin.store.writer import StoreWriter

__all__ = ["Asking"]

LOOK_SECONDS: Final = 0.1
"""How often an answer of another process is looked for."""
QUESTION_CHARACTERS: Final = 8_000
CHOICES: Final = 20


class Asking:
    """Implements `Asks` for one live session."""

    def __init__(self, course: Course, writer: StoreWriter) -> None:
        self._course = course
        self._writer = writer
        self._told: str | None = None
        """Who outside of the run has written to the waiting session."""

    async def ask(
        self, text: str, *, choices: tuple[str, ...], seconds: float | None, default: str | None
    ) -> QuestionRecord:
        """Wait for the answer. Raises `NotAllowed`."""
        if len(text) > QUESTION_CHARACTERS or len(choices) > CHOICES:
            raise NotAllowed(
                f"a question may have {QUESTION_CHARACTERS} characters and {CHOICES} choices; "
                "ask for one decision"
            )
        policy = self._course.box.policy
        most = min(policy.ask_seconds if seconds is None else seconds, policy.ask_max_seconds)
        question = await self._ask(
            NewQuestion(text=text, choices=choices, default=default, expires_at=time.time() + most)
        )
        ends = anyio.current_time() + most
        state, reason = QuestionState.WITHDRAWN, "its turn was stopped"
        self._told, self._course.box.spoken_to = None, self._spoken_to
        self._put_off(most)
        try:
            if await self._answered(question, ends):
                state, reason = QuestionState.ANSWERED, ""
            elif self._told is None:
                state, reason = QuestionState.EXPIRED, f"nobody answered within {most:g} s"
            else:
                reason = f"{self._told} wrote to its session instead"
        finally:
            self._course.box.spoken_to = None
            self._put_off(min(0.0, anyio.current_time() - ends))
            with anyio.CancelScope(shield=True):
                question = await self._close(question, state, reason)
        return question

    async def _ask(self, question: NewQuestion) -> QuestionRecord:
        context = self._course.context
        try:
            return await self._course.record.write(
                lambda store: store.ask_question(
                    context.lease, context.attempt.id, question, actor=context.task.key
                )
            )
        except IllegalTransition as error:
            raise NotAllowed("one question at a time: another one of yours is open") from error

    async def _answered(self, question: QuestionRecord, ends: float) -> bool:
        """Whether an answer came before the end, and before anybody said something else."""
        while anyio.current_time() < ends:
            now = await self._writer.read(lambda store: store.load_question(question.id))
            if now.state is not QuestionState.OPEN:
                return True
            if self._told is not None:
                return False
            await anyio.sleep(max(0.0, min(LOOK_SECONDS, ends - anyio.current_time())))
        return False

    async def _close(self, question: QuestionRecord, state: QuestionState, reason: str) -> QuestionRecord:
        """An answer that came at the last moment counts."""
        context = self._course.context
        return await self._writer.run(
            lambda store: store.close_question(
                context.lease, question.id, state, actor=context.task.key, reason=reason or None
            )
        )

    def _spoken_to(self, sender: str) -> None:
        self._told = sender

    def _put_off(self, seconds: float) -> None:
        self._course.deadlines.put_off(seconds)
        if self._course.context.put_off is not None:
            self._course.context.put_off(seconds)
