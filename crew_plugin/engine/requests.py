"""What others ask of a run while it is driven: stop, stop one task, steer, resize."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from crew_plugin.engine.cancel import cause_of_request
from crew_plugin.engine.settle import Stop
from crew_plugin.engine.worker import Work
from crew_plugin.models.records import ControlRecord, ControlVerb, Lease, TaskRecord
from crew_plugin.models.states import TASK_TERMINAL, RunState
from crew_plugin.store.writer import StoreWriter

__all__ = ["Requests"]


@dataclass(slots=True, kw_only=True)
class Requests:
    """The requests to one run and what they changed."""

    writer: StoreWriter
    width: int
    stop: Stop | None = None
    task_stops: dict[str, Stop] = field(default_factory=dict[str, Stop])
    _cancels: dict[str, ControlRecord] = field(default_factory=dict[str, ControlRecord])
    _seen: set[str] = field(default_factory=set[str])

    async def take(
        self,
        control: ControlRecord,
        lease: Lease | None,
        tasks: Mapping[str, TaskRecord],
        work: Mapping[str, Work],
    ) -> str | None:
        """Carry out a request that was written down, once. Returns why it was refused.

        Only a stop of the run can be taken before the run is claimed; the rest is left for then.
        """
        if control.id in self._seen or (lease is None and not _stops_run(control)):
            return None
        self._seen.add(control.id)
        if _stops_run(control):
            self.stop = self.stop or Stop(cause=cause_of_request(control), actor=control.actor)
            self._cancels[control.id] = control
            return None
        assert lease is not None
        task = next((task for task in tasks.values() if task.id == control.task_id), None)
        refused = await self._take_for_task(control, task, work)
        if refused is None and control.verb is ControlVerb.CANCEL:
            return None
        await self._answer(lease, control, refused)
        return refused

    async def _take_for_task(
        self, control: ControlRecord, task: TaskRecord | None, work: Mapping[str, Work]
    ) -> str | None:
        if control.verb is ControlVerb.RESIZE:
            return self._resize(control)
        if task is None:
            return "the run has no such task"
        if task.state in TASK_TERMINAL:
            return f"the task had already ended: {task.state}"
        if control.verb is ControlVerb.CANCEL:
            stop = Stop(cause=cause_of_request(control), actor=control.actor)
            self.task_stops.setdefault(task.key, stop)
            self._cancels[control.id] = control
            return None
        return await _steer(control, work.get(task.key))

    def _resize(self, control: ControlRecord) -> str | None:
        width = control.payload.get("width")
        if not isinstance(width, int) or not 1 <= width <= 1024:
            return "width must be a number from 1 to 1024"
        self.width = width
        return None

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
            await self._answer(
                lease, control, None if stopped else f"the task had already ended: {task.state}"
            )

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

    async def _answer(self, lease: Lease, control: ControlRecord, refused: str | None) -> None:
        await self.writer.run(
            lambda store: store.answer_control(lease, control.id, refused=refused, actor="supervisor")
        )


def _stops_run(control: ControlRecord) -> bool:
    return control.verb is ControlVerb.CANCEL and control.task_id is None


async def _steer(control: ControlRecord, work: Work | None) -> str | None:
    text = control.payload.get("text")
    if not isinstance(text, str) or not text:
        return "there is no text to steer with"
    if work is None or work.attempt is None:
        return "the task has no open session"
    took = await work.context.runner.steer(work.attempt.id, text)
    return None if took else "the session is ending"
