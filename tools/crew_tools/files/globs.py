"""Globs as models write them: `*.py`, `src/**/test_*.py`, `*.{ts,tsx}`."""

import re
from collections.abc import Callable, Iterator
from fnmatch import translate
from itertools import islice

from crew_plugin.errors import InvalidValue

__all__ = ["glob_matcher"]

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_MAX_ALTERNATIVES = 64
_MAX_PARTS = 64

_Part = Callable[[str], object] | None
"""Matches one name; None stands for `**`."""


def glob_matcher(parameter: str, pattern: str) -> Callable[[str], bool]:
    """Whether a relative path fits. Without a slash only its last name is looked at.

    Raises `InvalidValue` about `parameter` for a glob that is far too long.
    """
    wanted = pattern.removeprefix("./").strip("/")
    alternatives = list(islice(_expanded(wanted), _MAX_ALTERNATIVES + 1))
    if len(alternatives) > _MAX_ALTERNATIVES or wanted.count("/") >= _MAX_PARTS:
        raise InvalidValue(parameter, pattern, "a shorter glob")
    compiled = [[_part(part) for part in alternative.split("/")] for alternative in alternatives]

    def matches(relative: str) -> bool:
        names = relative.split("/")
        return any(
            _fits(parts, names) if len(parts) > 1 or parts[0] is None else bool(parts[0](names[-1]))
            for parts in compiled
        )

    return matches


def _expanded(pattern: str) -> Iterator[str]:
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    for option in found.group(1).split(","):
        yield from _expanded(pattern[: found.start()] + option + pattern[found.end() :])


def _part(part: str) -> _Part:
    return None if part == "**" else re.compile(translate(part)).match


def _fits(parts: list[_Part], names: list[str]) -> bool:
    """Whether the names fit the parts from end to end, `**` standing for any number of names."""
    reachable = {0}
    for name in names:
        after: set[int] = set()
        for at in _closed(parts, reachable):
            if at < len(parts):
                part = parts[at]
                if part is None:
                    after.add(at)
                elif part(name):
                    after.add(at + 1)
        reachable = after
    return len(parts) in _closed(parts, reachable)


def _closed(parts: list[_Part], reachable: set[int]) -> set[int]:
    """Also the places reached by letting `**` stand for nothing."""
    closed = set(reachable)
    for at in sorted(reachable):
        while at < len(parts) and parts[at] is None:
            at += 1
            closed.add(at)
    return closed
