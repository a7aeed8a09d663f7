"""How many sessions the process may have open, over all its runs."""

from collections.abc import Callable

import anyio

__all__ = ["Slots"]


class Slots:
    """A count with listeners. Used from one event loop only."""

    def __init__(self, total: int) -> None:
        self._free = max(1, total)
        self._listeners: list[Callable[[], None]] = []

    @property
    def free(self) -> int:
        """Sessions that may be opened now."""
        return self._free

    def take(self) -> None:
        """Use one. Whoever takes has looked at `free` without awaiting in between."""
        self._free -= 1

    def give_back(self) -> None:
        """Free one, and tell everybody who waits for one."""
        self._free += 1
        for listener in tuple(self._listeners):
            listener()

    async def free_one(self) -> None:
        """Wait until a session may be opened."""
        while self._free <= 0:
            freed = anyio.Event()
            unlisten = self.listen(freed.set)
            try:
                await freed.wait()
            finally:
                unlisten()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when a slot becomes free, until the returned function is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)
