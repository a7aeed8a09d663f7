"""Events as they are appended, by whatever process: for those who watch a run from outside.

The store's `data_version` is asked twenty times a second while somebody watches; that costs
half a CPU second a minute and needs no other way between the processes.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from crew_plugin.models.records import EventRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["follow", "others"]

_PAUSE = 0.05
_PAUSE_OF_OTHERS = 0.2
"""Between two looks of a process that is open for hours."""
_PAUSES_PER_LOOK = 20
"""How often a run is looked at although nothing changed: a supervisor that died changes nothing."""


@dataclass(frozen=True, slots=True)
class _Glance:
    """What is new, and whether anything can still come."""

    version: int
    events: list[EventRecord]
    over: bool


async def follow(
    writer: StoreWriter, run_id: str | None, *, after_seq: int = 0
) -> AsyncIterator[EventRecord]:
    """The events of a run (or of all runs) from a sequence number on, as they come. Ends when the
    run has ended or its supervisor has died; with all runs, never."""
    import anyio

    seen, version, pauses = after_seq, -1, 0
    while True:
        if pauses % _PAUSES_PER_LOOK == 0 or await writer.read(_version) != version:
            glance = await writer.read(partial(_glance, run_id=run_id, seen=seen))
            version = glance.version
            for event in glance.events:
                seen = event.seq
                yield event
            if glance.over:
                return
        pauses += 1
        await anyio.sleep(_PAUSE)


async def others(writer: StoreWriter) -> AsyncIterator[EventRecord]:
    """What other processes append from now on, as it comes; never ends."""
    import anyio

    mine: set[int] = set()
    unsubscribe = writer.subscribe(lambda event: mine.add(event.seq))
    try:
        seen, version = await writer.read(_newest)
        while True:
            await anyio.sleep(_PAUSE_OF_OTHERS)
            now = await writer.read(_version)
            if now == version:
                continue
            version = now
            events = await writer.read(partial(_after, seen=seen))
            # What this process committed just before is told to the subscription by now.
            await anyio.sleep(_PAUSE)
            for event in events:
                seen = event.seq
                # A gap that grows would be told at every look; nobody here counts events.
                if event.seq not in mine and event.type != "events.left_out":
                    yield event
            mine.difference_update([seq for seq in mine if seq <= seen])
    finally:
        unsubscribe()


def _version(store: RunStore) -> int:
    return store.data_version()


def _newest(store: RunStore) -> tuple[int, int]:
    version = store.data_version()
    return store.last_seq(), version


def _after(store: RunStore, *, seen: int) -> list[EventRecord]:
    return store.tail(None, after_seq=seen)


def _glance(store: RunStore, *, run_id: str | None, seen: int) -> _Glance:
    """The run is looked at before its events, so that an ended run has no unseen ones."""
    version = store.data_version()
    over = False
    if run_id is not None:
        run = store.load_run(run_id)
        lost = run.owner is not None and not owner_alive(run.owner)
        over = run.state in RUN_TERMINAL or lost
        run_id = run.id
    events: list[EventRecord] = []
    while piece := store.tail(run_id, after_seq=seen):
        events += piece
        seen = piece[-1].seq
    return _Glance(version, events, over)
