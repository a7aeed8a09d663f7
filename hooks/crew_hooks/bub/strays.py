"""Processes that left the shell which started them: found by the mark in their environment."""

import asyncio
import os
from typing import Final

from loguru import logger

__all__ = ["end_strays"]

_GRACE_SECONDS: Final = 0.5


async def end_strays(variable: str, value: str) -> int:
    """End every process of this user that carries `variable=value`; returns how many there were.

    A command that starts a daemon in a session of its own is not in its shell's process group
    any more, so ending the shell leaves it behind. Where the system does not show environments
    of processes, nothing is found.
    """
    return await asyncio.to_thread(_end, variable, value)


def _end(variable: str, value: str) -> int:
    import psutil

    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.append(process)
                process.terminate()
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or not ours to look at
    _, alive = psutil.wait_procs(found, timeout=_GRACE_SECONDS)
    for process in alive:
        try:
            process.kill()
        except psutil.Error:
            continue
    if found:
        logger.warning("crew: ended {} processes that had left their shell: {}", len(found), found)
    return len(found)
