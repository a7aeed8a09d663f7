"""Importing what a tool needs when it is first called, without holding up the host's loop."""

import sys
from importlib import import_module
from types import ModuleType

__all__ = ["load"]


async def load(name: str) -> ModuleType:
    """A module; imported in a thread if it is not there yet."""
    module = sys.modules.get(name)
    if module is not None and not _half_imported(module):
        return module
    import anyio.to_thread

    return await anyio.to_thread.run_sync(import_module, name)


def _half_imported(module: ModuleType) -> bool:
    """Whether another thread is still at it: then the import system has to be asked to wait."""
    return bool(getattr(module.__spec__, "_initializing", False))
