"""A command that does all it can to stay: it leaves its session, its parent, and ignores requests."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.faults.family import GONE_SECONDS
from tests.screen import WAIT

__all__ = ["Stubborn"]


class Stubborn:
    """One such command, told from all others on the machine by how long it sleeps."""

    def __init__(self) -> None:
        self._nap = f"{time.monotonic_ns() % 1_000_000_000 + 1_000_000_000}.{os.getpid()}"

    @property
    def command(self) -> str:
        """For a shell: a daemon that was forked twice, and a sleep in the shell itself."""
        daemon = f"trap '' TERM HUP INT; sleep {self._nap}1 & sleep {self._nap}2; sleep {self._nap}3"
        started = f'(setsid sh -c "{daemon}" </dev/null >/dev/null 2>&1 &)'
        return f"{started}; trap '' TERM HUP INT; sleep {self._nap}4"

    def processes(self) -> list[psutil.Process]:
        """What of it runs."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if any(self._nap in part for part in process.cmdline()) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def until_it_runs(self) -> None:
        """Wait for daemon and shell: the daemon's parent has ended by then."""
        deadline = time.monotonic() + WAIT
        while not self._runs():
            assert time.monotonic() < deadline, "the command was not started"
            time.sleep(0.05)

    def _runs(self) -> bool:
        sleeps = {
            part[-1] for each in self.processes() if len(line := each.cmdline()) == 2 for part in line[1:]
        }
        return {"1", "2", "4"} <= sleeps

    def until_it_is_gone(self) -> None:
        """Fails if something of it is left after the time that a run has to leave nothing."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.processes():
            assert time.monotonic() < deadline, f"left: {left}"
            time.sleep(0.05)

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Nothing of it outlives the block, whatever was left."""
        try:
            yield
        finally:
            for process in self.processes():
                process.kill()
