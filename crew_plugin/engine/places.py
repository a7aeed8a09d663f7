"""The places that the tasks of one run have, or wait for, among all sessions of the process."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from crew_plugin.engine.shares import tags_of
from crew_plugin.engine.slots import Slots, is_shared
from crew_plugin.engine.snapshot import RESOURCE
from crew_plugin.engine.worker import Work
from crew_plugin.models.records import TaskRecord
from crew_plugin.models.spec import RunSpec, StepSpec
from crew_plugin.models.states import TASK_TERMINAL

__all__ = ["Places"]


@dataclass(slots=True, kw_only=True)
class Places:
    """By what each task is counted, and what it holds of that."""

    slots: Slots
    tasks: Mapping[str, TaskRecord]
    """As they stand, by key; the driver's own."""
    work: Mapping[str, Work]
    """Those that were started."""
    _limits: Mapping[str, int] = field(default_factory=dict[str, int])
    _tags: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    _shared: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def describe(self, spec: RunSpec, step: StepSpec) -> None:
        """This step is the task's plan, as it stands or as somebody changed it."""
        self._limits = spec.tag_limits
        self._tags[step.id] = tags_of(spec, step)
        self._shared[step.id] = tuple(filter(is_shared, self._tags[step.id]))

    def tags(self, key: str) -> frozenset[str]:
        """By what a task is counted."""
        return self._tags[key]

    def fits(self, key: str) -> bool:
        """Whether there still is a slot for a task, and room for what other runs use, too."""
        used, limits = self.slots.used, self._limits
        return self.slots.free > 0 and all(
            used.get(tag, 0) < limits.get(tag, 1 if tag.startswith(RESOURCE) else used.get(tag, 0) + 1)
            for tag in self._shared[key]
        )

    def used_elsewhere(self) -> dict[str, int]:
        """How often the shared tags are in use, without the tasks of this run that are at work: by
        other runs, and by sessions of this one that are leaving."""
        used = Counter(self.slots.used)
        for key, work in self.work.items():
            if self._shared[key] and work.tags and self.tasks[key].state not in TASK_TERMINAL:
                used.subtract(self._shared[key])
        return used

    def take(self, work: Work) -> None:
        """Give a task its slot. Whoever does has looked whether it fits without awaiting in between."""
        work.tags = self._tags[work.task.key]
        self.slots.take(work.tags)

    def give_back(self, work: Work) -> None:
        """Free the slot of a task, if it has one."""
        if work.tags is not None:
            self.slots.give_back(work.tags)
            work.tags = None

    async def change(self, spec: RunSpec, work: Work) -> None:
        """Count a task that has its slot by its changed step, where there may have to be room first."""
        self.describe(spec, work.step)
        if self._tags[work.task.key] == work.tags:
            return
        self.give_back(work)
        await self.slots.free_one(lambda: self.fits(work.task.key))
        self.take(work)
