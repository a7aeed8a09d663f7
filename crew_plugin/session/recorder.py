"""Writing down what a session does, in order and without making it wait."""

from collections.abc import Callable
from typing import Any

import anyio

from crew_plugin.errors import CrewError
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["Entry", "Recorder"]

Entry = Callable[[RunStore], Any]


class Recorder:
    """Collects writes and hands them to the store's writer, several in one transaction.

    `add` returns at once; what was added is written in the order in which it was added, by the
    one task that runs `keep_writing`. After a failure nothing more is written and everyone who
    waits is told: a session whose record has a hole must end.
    """

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._entries: list[Entry] = []
        self._added = 0
        self._written = 0
        self._work = anyio.Event()
        self._progress = anyio.Event()
        self._failure: Exception | None = None

    def add(self, entry: Entry) -> None:
        """Write this soon."""
        self._entries.append(entry)
        self._added += 1
        self._work.set()

    async def flush(self) -> None:
        """Return when everything added so far is on the disk. Raises what the store raised."""
        target = self._added
        while self._written < target:
            if self._failure is not None:
                raise self._failure
            await self._progress.wait()

    async def keep_writing(self) -> None:
        """Write whatever is added, until cancelled. Raises what the store raised."""
        try:
            while True:
                await self._work.wait()
                self._work = anyio.Event()
                await self._write(self.rest())
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._failure = self._failure or CrewError("the session is over")
            self._tell()

    def rest(self) -> list[Entry]:
        """Take what has not been handed to the writer yet."""
        entries, self._entries = self._entries, []
        return entries

    async def _write(self, entries: list[Entry]) -> None:
        if not entries:
            return

        def write(store: RunStore) -> None:
            for entry in entries:
                entry(store)

        await self._writer.run(write)
        self._written += len(entries)
        self._tell()

    def _tell(self) -> None:
        self._progress.set()
        self._progress = anyio.Event()
