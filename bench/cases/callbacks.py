"""How long single callbacks of an event loop take."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Longest:
    """The longest callback, in seconds: by the clock, and of the processor alone."""

    wall: float = 0.0
    cpu: float = 0.0
    what: str = ""


@contextmanager
def timed_callbacks() -> Iterator[Longest]:
    """Time every callback of the loop that runs this. Each of them costs a little more then."""
    longest = Longest()
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        run(handle)
        cpu = time.thread_time() - cpu
        longest.wall = max(longest.wall, time.perf_counter() - wall)
        if cpu > longest.cpu:
            longest.cpu, longest.what = cpu, repr(handle)[:300]

    asyncio.Handle._run = timed  # type: ignore[assignment, method-assign]
    try:
        yield longest
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
