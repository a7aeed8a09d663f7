"""Importing what is heavy, so that the host's loop does not have to pay for it again and again."""

import gc
import sys
from importlib import import_module

__all__ = ["import_parts"]


def import_parts(*modules: str) -> None:
    """Import modules; what is loaded by then is never looked at again by the garbage collector.

    One look at everything that Bub and its libraries load takes the collector 100 to 200 ms, in
    which no loop of the process goes on, and sessions make it look often. Modules stay anyway.
    """
    if all(module in sys.modules for module in modules):
        return
    gc.freeze()
    for module in modules:
        import_module(module)
    gc.freeze()
