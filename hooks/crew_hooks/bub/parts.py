"""Importing what is heavy, so that the host's loop does not have to pay for it again and again."""

import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["import_parts", "loading"]


@contextmanager
def loading() -> Generator[None]:
    """Meanwhile the garbage collector does not look; what is loaded by the end it never looks at again.

    Modules stay, so it would find nothing in them. Looking while they are imported takes it a sixth of
    the processor time of loading Bub. One look at everything later is 100 to 200 ms in which no loop of
    the process goes on, and sessions make it look often.
    """
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if looked:
            gc.enable()


def import_parts(*modules: str) -> None:
    """Import modules, in the manner of `loading`."""
    if all(module in sys.modules for module in modules):
        return
    with loading():
        for module in modules:
            import_module(module)
