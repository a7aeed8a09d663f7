"""Sessions of a run that are opened again after they ended, to read what came for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio.abc

from crew_plugin.engine.slots import Slots

__all__ = ["Sleepers", "Wakes"]


class Sleepers(Protocol):
    """The sessions that may be woken: those of one run."""

    async def asleep(self, key: str) -> bool:
        """Wait until the end of this task's attempt is written down. False if it gets another
        one, which finds the mail in its prompt."""
        ...

    def ended(self, key: str) -> bool:
        """Whether nobody works on this task, nor is going to by himself."""
        ...

    async def owed(self, key: str) -> bool:
        """Whether words of a person, or of whoever asked for the run, wait for this task."""
        ...

    async def converse(self, key: str) -> None:
        """Hold one further conversation of this task."""
        ...


@dataclass(slots=True)
class _Call:
    """One session that is being woken."""

    again: bool = False
    """It was called once more meanwhile."""
    owed: bool = False
    """A person's words are what it is awake for."""
    talks: bool = False
    """The conversation is under way."""


class Wakes:
    """The further conversations of one run: one for each task at a time, each in a slot of the
    process, and each after the task's own attempt. They belong to the run and are cancelled when it
    ends; what they have not read by then the store declares dead."""

    def __init__(self, slots: Slots, changed: Callable[[], None]) -> None:
        self._slots = slots
        self._changed = changed
        """Called when a conversation is over."""
        self._calls: dict[str, _Call] = {}
        self._called = 0
        self._group: anyio.abc.TaskGroup | None = None
        self._sleepers: Sleepers | None = None

    def open(self, group: anyio.abc.TaskGroup, sleepers: Sleepers) -> None:
        """From now on sessions can be woken; `group` ends with the run."""
        self._group, self._sleepers = group, sleepers

    def close(self) -> None:
        """The run is ending: nobody is woken any more."""
        self._group = None

    def call(self, key: str) -> str | None:
        """Have the session of this task opened again. Returns why not, None if it will be."""
        if self._group is None or self._sleepers is None:
            return "the run is ending"
        self._called += 1
        if key in self._calls:
            self._calls[key].again = True
        else:
            self._calls[key] = _Call()
            self._group.start_soon(self._wake, self._sleepers, key)
        return None

    async def owed(self) -> bool:
        """Whether a conversation that a person was promised is still to come, or under way."""
        before = -1
        while before != self._called:
            before = self._called
            for key, call in list(self._calls.items()):
                if call.owed or (self._sleepers is not None and await self._sleepers.owed(key)):
                    return True
        return False

    def talks(self, key: str) -> bool:
        """Whether this task holds a further conversation just now."""
        return key in self._calls and self._calls[key].talks

    async def _wake(self, sleepers: Sleepers, key: str) -> None:
        try:
            await self._hold(sleepers, key, self._calls[key])
        finally:
            del self._calls[key]
            self._changed()

    async def _hold(self, sleepers: Sleepers, key: str, call: _Call) -> None:
        again = True
        while again:
            if not await sleepers.asleep(key):
                return
            await self._slots.free_one()
            if not sleepers.ended(key):
                continue  # it was tried again meanwhile
            self._slots.take()
            # What came before this is read now; what comes later calls once more.
            call.again, call.talks = False, True
            try:
                call.owed = await sleepers.owed(key)
                await sleepers.converse(key)
            finally:
                self._slots.give_back()
                call.owed = call.talks = False
                self._changed()
            again = call.again
