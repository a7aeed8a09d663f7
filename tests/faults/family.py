"""The processes of a run: which there are, and that none of them is left."""

import time
from collections.abc import Sequence

import psutil

__all__ = ["GONE_SECONDS", "all_gone", "family_of", "guardian_of", "workers_of", "zygote_of"]

GONE_SECONDS = 40.0
"""What it may take until nothing of a run is left."""


def _named(processes: Sequence[psutil.Process], module: str) -> list[psutil.Process]:
    return [each for each in processes if module in " ".join(each.cmdline())]


def zygote_of(supervisor: int) -> psutil.Process:
    """The process that the supervisor's workers are forked from."""
    (found,) = _named(psutil.Process(supervisor).children(), "crew_hooks.bub.zygote")
    return found


def workers_of(supervisor: int) -> list[psutil.Process]:
    """The workers that are there now."""
    return zygote_of(supervisor).children()


def guardian_of(supervisor: int) -> psutil.Process:
    """The parent of a detached supervisor."""
    parent = psutil.Process(supervisor).parent()
    assert parent is not None
    assert _named([parent], "crew_plugin.detached.guardian")
    return parent


def family_of(supervisor: int) -> list[psutil.Process]:
    """A supervisor, its guardian where it has one, and everything that it has started."""
    process = psutil.Process(supervisor)
    parent = process.parent()
    above = [] if parent is None else _named([parent], "crew_plugin.detached.guardian")
    return [*above, process, *process.children(recursive=True)]


def all_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait until each of these has ended. Fails with those that have not."""
    deadline = time.monotonic() + GONE_SECONDS
    while left := [each for each in processes if _runs(each)]:  # polled: whoever is their parent reaps them
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
