"""What others ask of a run while it is driven: stop all or a task or a turn, hand over mail, resize."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import anyio

from crew_plugin.engine.cancel import cause_of_request
from crew_plugin.engine.contact import Contact
from crew_plugin.engine.settle import Stop
from crew_plugin.errors import CallerError, IllegalTransition
from crew_plugin.models.mail import Receipt, ReceiptOutcome
from crew_plugin.models.records import ControlRecord, ControlVerb, Lease, TaskRecord
from crew_plugin.models.states import TASK_TERMINAL, RunState
from crew_plugin.store.writer import StoreWriter

__all__ = ["Requests", "stops_run"]


CARRY_OUT_SECONDS = 4.0
"""How long carrying out one request may take; whoever asked waits a little longer."""
_REACHED = frozenset({ReceiptOutcome.INJECTED, ReceiptOutcome.QUEUED, ReceiptOutcome.WOKEN})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What whoever asked is told."""

    refused: str | None = None
    outcome: ReceiptOutcome | None = None
    note: str | None = None


@dataclass(slots=True, kw_only=True)
class Requests:
    """The requests to one run and what they changed."""

    writer: StoreWriter
    width: int
    most: int
    """What a run may be widened to."""
    retry: Callable[[ControlRecord], Awaitable[str]]
    """Queues tasks again; returns what to say about it. Raises `CrewError`."""
    stop: Stop | None = None
    task_stops: dict[str, Stop] = field(default_factory=dict[str, Stop])
    _cancels: dict[str, ControlRecord] = field(default_factory=dict[str, ControlRecord])
    _seen: set[str] = field(default_factory=set[str])

    async def take(
        self,
        control: ControlRecord,
        lease: Lease | None,
        tasks: Mapping[str, TaskRecord],
        contact: Contact | None,
    ) -> str | None:
        """Carry out a request that was written down, once. Returns why it was refused.

        Only a stop of the run can be taken before the run has begun; the rest is left for then.
        """
        if control.id in self._seen or (contact is None and not stops_run(control)):
            return None
        self._seen.add(control.id)
        if stops_run(control):
            self.stop = self.stop or Stop(cause=cause_of_request(control), actor=control.actor)
            self._cancels[control.id] = control
            return None
        assert lease is not None
        assert contact is not None
        answer: _Answer | None = _Answer(refused="it could not be carried out in time")
        # Shielded: what was begun with is answered, even if the run ends meanwhile.
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(CARRY_OUT_SECONDS):
                answer = await self._carry_out(control, tasks, contact)
            if answer is not None:
                await self._answer(lease, control, answer)
        return None if answer is None else answer.refused

    async def _carry_out(
        self, control: ControlRecord, tasks: Mapping[str, TaskRecord], contact: Contact
    ) -> _Answer | None:
        """What to answer; None if that shows later."""
        if control.verb is ControlVerb.RESIZE:
            return self._resize(control)
        if control.verb is ControlVerb.RETRY:
            return await self._again(control)
        task = next((task for task in tasks.values() if task.id == control.task_id), None)
        if task is None:
            return _Answer(refused="the run has no such task")
        if control.verb is ControlVerb.CANCEL:
            return self._stop_task(control, task)
        if control.verb is ControlVerb.INTERRUPT:
            return _told(await contact.interrupt(task.key, cause_of_request(control), control.message_id))
        if control.message_id is None:
            return _Answer(refused="there is no message to hand over")
        return _told(await contact.hand_over(task.key, control.message_id))

    def _stop_task(self, control: ControlRecord, task: TaskRecord) -> _Answer | None:
        if task.state in TASK_TERMINAL:
            return _Answer(refused=f"the task had already ended: {task.state}")
        stop = Stop(cause=cause_of_request(control), actor=control.actor)
        self.task_stops.setdefault(task.key, stop)
        self._cancels[control.id] = control
        return None

    def _resize(self, control: ControlRecord) -> _Answer:
        width = control.payload.get("width")
        if not isinstance(width, int) or not 1 <= width <= self.most:
            return _Answer(refused=f"the settings allow 1 to {self.most} sessions of one run (limits.width)")
        before, self.width = self.width, width
        return _Answer(note=f"{width} session{'s' * (width != 1)} at once instead of {before}")

    async def _again(self, control: ControlRecord) -> _Answer:
        if self.stop is not None:
            return _Answer(refused="the run is being stopped")
        try:
            return _Answer(note=await self.retry(control))
        except (CallerError, IllegalTransition) as error:
            return _Answer(refused=str(error))

    async def answer_settled(self, lease: Lease, tasks: Mapping[str, TaskRecord]) -> None:
        """Answer whoever wanted a task stopped that has ended by now."""
        if not self._cancels:
            return
        ended = {task.id: task for task in tasks.values() if task.state in TASK_TERMINAL}
        for control in [each for each in self._cancels.values() if each.task_id in ended]:
            task = ended[control.task_id or ""]
            stop = self.task_stops.get(task.key)
            stopped = stop is not None and task.cause is not None and task.cause.code is stop.cause.code
            del self._cancels[control.id]
            refused = None if stopped else f"the task had already ended: {task.state}"
            await self._answer(lease, control, _Answer(refused=refused))

    @property
    def taken(self) -> frozenset[str]:
        """The requests that were begun with, answered or not."""
        return frozenset(self._seen)

    def last_answers(self, end: RunState) -> list[tuple[ControlRecord, str | None]]:
        """What is left to be answered when the run ends like this."""
        too_late = f"the run had already ended: {end}" if end is RunState.COMPLETED else None
        return [(control, too_late) for control in self._cancels.values()]

    def actor_for(self, key: str) -> str:
        """Whose wish it is that this task ends."""
        stop = self.task_stops.get(key) or self.stop
        return "supervisor" if stop is None else stop.actor

    async def _answer(self, lease: Lease, control: ControlRecord, answer: _Answer) -> None:
        await self.writer.run(
            lambda store: store.answer_control(
                lease,
                control.id,
                refused=answer.refused,
                actor="supervisor",
                outcome=answer.outcome,
                note=answer.note,
            )
        )


def stops_run(control: ControlRecord) -> bool:
    """Whether this asks for the end of the whole run."""
    return control.verb is ControlVerb.CANCEL and control.task_id is None


def _told(receipt: Receipt) -> _Answer:
    """A receipt as the answer to whoever asked."""
    if receipt.outcome in _REACHED:
        return _Answer(outcome=receipt.outcome, note=receipt.reason or None)
    return _Answer(outcome=receipt.outcome, refused=receipt.reason or "it could not be delivered")
