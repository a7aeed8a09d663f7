"""How long the event loop was kept busy by one callback."""

import time
from asyncio import events
from types import TracebackType
from typing import Self


class LongestTurn:
    """Measures the CPU time of the loop's thread for each callback: what other processes do to
    the machine meanwhile does not count."""

    longest = 0.0
    worst = ""

    def __enter__(self) -> Self:
        self._run = run = events.Handle._run

        def timed(handle: events.Handle) -> None:
            begun = time.thread_time()
            run(handle)
            spent = time.thread_time() - begun
            if spent > self.longest:
                self.longest, self.worst = spent, repr(handle)

        events.Handle._run = timed  # type: ignore[method-assign,assignment]  # asyncio offers no other way to time a callback
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        events.Handle._run = self._run  # type: ignore[method-assign]  # what it was
