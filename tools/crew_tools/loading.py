"""Importing what a tool needs when it is first called, without holding up the host's loop."""

import sys
from importlib import import_module
from threading import Lock
from types import ModuleType

__all__ = ["ONE_AT_A_TIME", "load"]

ONE_AT_A_TIME = Lock()
"""Held by threads that import for a tool, or for the crew. Two that begin at different ends of one
package wait for each other, and Python lets one of them go on with half a module."""


async def load(name: str) -> ModuleType:
    """A module; imported in a thread if it is not there yet."""
    module = sys.modules.get(name)
    if module is not None and not _half_imported(module):
        return module
    import anyio.to_thread

    return await anyio.to_thread.run_sync(_import, name)


def _import(name: str) -> ModuleType:
    with ONE_AT_A_TIME:
        return import_module(name)


def _half_imported(module: ModuleType) -> bool:
    """Whether another thread is still at it: then the import system has to be asked to wait."""
    return bool(getattr(module.__spec__, "_initializing", False))
