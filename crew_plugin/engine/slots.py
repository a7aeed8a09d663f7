"""What the runs of one process share: open sessions, and whatever is counted over all runs."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import count

import anyio

from crew_plugin.engine.snapshot import RESOURCE

__all__ = ["Slots", "is_shared"]

_SHARED = (RESOURCE, "team:", "provider:")


def is_shared(tag: str) -> bool:
    """Whether sessions with this tag are counted over all runs of the process."""
    return tag.startswith(_SHARED)


class Slots:
    """Counts with listeners. Used from one event loop only."""

    def __init__(self, total: int) -> None:
        self._free = max(1, total)
        self._listeners: list[Callable[[], None]] = []
        self._used: Counter[str] = Counter()
        """How many open sessions have each of the tags that runs share."""
        self._waiting: dict[str, dict[str, tuple[int, frozenset[str]]]] = {}
        """By run and task: its ticket, and the resources that it waits for."""
        self._tickets = count(1)

    # --- sessions ---

    @property
    def free(self) -> int:
        """Sessions that may be opened now."""
        return self._free

    def take(self, tags: Collection[str] = ()) -> None:
        """Use one. Whoever takes has looked at what is free without awaiting in between."""
        self._free -= 1
        self._used.update(filter(is_shared, tags))

    def give_back(self, tags: Collection[str] = ()) -> None:
        """Free one, and tell everybody who waits for one."""
        self._free += 1
        self._used.subtract(filter(is_shared, tags))
        self._tell()

    async def free_one(self, fits: Callable[[], bool] = lambda: True) -> None:
        """Wait until a session may be opened, and this one fits beside the others."""
        while self._free <= 0 or not fits():
            freed = anyio.Event()
            unlisten = self.listen(freed.set)
            try:
                await freed.wait()
            finally:
                unlisten()

    # --- what is counted over all runs ---

    @property
    def used(self) -> Mapping[str, int]:
        """How many open sessions of the process have each shared tag."""
        return self._used

    def ahead_of(self, run_id: str) -> Mapping[str, int]:
        """For each resource, the lowest ticket of those in other runs that wait for it."""
        lowest: dict[str, int] = {}
        for run, tasks in self._waiting.items():
            if run != run_id:
                for ticket, resources in tasks.values():
                    for resource in resources:
                        lowest[resource] = min(ticket, lowest.get(resource, ticket))
        return lowest

    def ticket(self, run_id: str, key: str) -> int | None:
        """The place of a task among those that wait for a resource."""
        place = self._waiting.get(run_id, {}).get(key)
        return None if place is None else place[0]

    def wait_for(self, run_id: str, waits: Mapping[str, frozenset[str]]) -> list[str]:
        """These tasks of a run wait for resources now, and no others of it. Returns those that did
        not before. Who goes on waiting keeps its place."""
        before = self._waiting.pop(run_id, {})
        now: dict[str, tuple[int, frozenset[str]]] = {}
        for key, resources in waits.items():
            known = before.get(key)
            now[key] = (next(self._tickets) if known is None else known[0], resources)
        if now:
            self._waiting[run_id] = now
        if any(key not in now for key in before):
            # Somebody may have been kept back by it.
            self._tell()
        return [key for key in now if key not in before]

    # --- telling ---

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when something becomes free, until the returned function is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self) -> None:
        listeners: Iterable[Callable[[], None]] = tuple(self._listeners)
        for listener in listeners:
            listener()
        # Who was told first this time comes last the next time.
        self._listeners[:] = self._listeners[1:] + self._listeners[:1]
