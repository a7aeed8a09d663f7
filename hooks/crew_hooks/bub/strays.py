"""Processes that left the shell which started them: found by the mark in their environment."""

import asyncio
import contextlib
import os
import time
from typing import Final

import psutil
from loguru import logger

__all__ = ["end_strays"]

_LOOKS_SECONDS: Final = 0.05


async def end_strays(variable: str, value: str, *, grace: float) -> int:
    """End every process of this user that carries `variable=value` and is in no shell's group;
    returns how many there were. They are asked to end, and killed after `grace` seconds.

    A command that starts a daemon in a session of its own is not in its shell's process group
    any more, so ending the shell leaves it behind. Where the system does not show environments
    of processes, nothing is found.
    """
    found = await asyncio.to_thread(_ask_to_end, variable, value)
    if not found:
        return 0
    # Waited for on the loop: many sessions may end at once, and there are few threads.
    deadline = time.monotonic() + grace
    while any(map(_runs, found)) and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody else tells
        await asyncio.sleep(_LOOKS_SECONDS)
    for process in filter(_runs, found):
        with contextlib.suppress(psutil.Error):
            process.kill()
    logger.warning("crew: ended {} processes that had left their shell: {}", len(found), found)
    return len(found)


def _ask_to_end(variable: str, value: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and not _in_a_shell(process):
                process.terminate()
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or not ours to look at
    return found


def _in_a_shell(process: psutil.Process) -> bool:
    """Whether it is this process, or in the group of a shell that this process started."""
    group = os.getpgid(process.pid)
    if process.pid == os.getpid():
        return True
    return psutil.pid_exists(group) and psutil.Process(group).ppid() == os.getpid()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
