"""Keeping shared what a process has in common with those that it forks.

A fork copies no memory, but CPython writes to an object whenever it takes or drops a reference to it, and
each first write to a page copies the page. Most of what a worker would have of its own are such copies of
what it only reads: 6 of 16 MB. An object that is immortal (PEP 683) is not counted, so that its page stays
shared. Python has no call that makes objects immortal; this writes the count that means it, where the layout
of objects is known and a try shows that it works.
"""

import ctypes
import gc
import sys
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["keep_shared"]

_IMMORTAL: Final = 0xFFFFFFFF
"""The lower half of a reference count that CPython from 3.12 to 3.14 leaves as it is."""
_KNOWN: Final = ((3, 12), (3, 13), (3, 14))
_HEADER: Final = 16
"""Bytes of an object that has a count and a type: builds without a GIL or for debugging have more."""
_AT_ONCE: Final = 1000
"""Objects whose references are looked at together: most of them lead to the same few thousand others."""


def keep_shared(version: tuple[int, int] = sys.version_info[:2]) -> bool:
    """Make immortal whatever there is, for good: for a process that does nothing more than fork.

    False if this Python is none where that is known to work; nothing is changed then. What becomes
    garbage later is never freed, nor is it looked at by the collector.
    """
    if not _can(version):
        return False
    # Not collected before: workers would scatter what they allocate over the holes.
    gc.unfreeze()
    there, memory = gc.get_objects(), _memory()
    for first in range(0, len(there), _AT_ONCE):
        part = there[first : first + _AT_ONCE]
        _never_count(memory, {*map(id, part), *map(id, gc.get_referents(*part))})
    gc.freeze()
    return True


def _can(version: tuple[int, int]) -> bool:
    plain = sys.implementation.name == "cpython" and object.__basicsize__ == _HEADER
    if not plain or version not in _KNOWN or sys.byteorder != "little":
        return False
    tried = object()
    _never_count(_memory(), [id(tried)])
    before = sys.getrefcount(tried)
    more = [tried] * 10
    same = sys.getrefcount(more[0]) == before
    del more
    return same and sys.getrefcount(tried) == before


def _memory() -> Any:
    """All of this process, as numbers of four bytes."""
    return (ctypes.c_uint32 * (sys.maxsize // 4)).from_address(0)


def _never_count(memory: Any, addresses: Iterable[int]) -> None:
    for address in addresses:
        memory[address >> 2] = _IMMORTAL
