"""Sessions of a run that are opened again after they ended, to read what came for them."""

from collections.abc import Awaitable, Callable

import anyio.abc

from crew_plugin.engine.slots import Slots

__all__ = ["Wakes"]


class Wakes:
    """The further conversations of one run: one for each task at a time, each in a slot of the
    process. They belong to the run and are cancelled when it ends; what they have not read by then
    the store declares dead."""

    def __init__(self, slots: Slots, converse: Callable[[str], Awaitable[None]]) -> None:
        self._slots = slots
        self._converse = converse
        """Holds one further conversation of the task with this key."""
        self._called: dict[str, bool] = {}
        """The tasks that are being woken, and whether they were called once more meanwhile."""
        self._group: anyio.abc.TaskGroup | None = None

    def open(self, group: anyio.abc.TaskGroup) -> None:
        """From now on sessions can be woken; `group` ends with the run."""
        self._group = group

    def close(self) -> None:
        """The run is ending: nobody is woken any more."""
        self._group = None

    def call(self, key: str) -> str | None:
        """Have the session of this task opened again. Returns why not, None if it will be."""
        if self._group is None:
            return "the run is ending"
        if key in self._called:
            self._called[key] = True
        else:
            self._called[key] = False
            self._group.start_soon(self._wake, key)
        return None

    async def _wake(self, key: str) -> None:
        try:
            again = True
            while again:
                await self._slots.free_one()
                self._slots.take()
                # What came before this is read now; what comes later calls once more.
                self._called[key] = False
                try:
                    await self._converse(key)
                finally:
                    self._slots.give_back()
                again = self._called[key]
        finally:
            del self._called[key]
