"""How tools of MCP servers are named for a model, and which of them a session may use.

The full name of a tool does not tell where the server's name ends: `mcp__git__admin__x` is the tool
`admin__x` of `git` and the tool `x` of `git__admin`. So what a list says of a server's tools is
decided with the server and the tool, not with their name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

__all__ = ["PREFIX", "Access", "ServerAccess", "matches", "server_prefix", "tool_name"]

PREFIX: Final = "mcp__"
_BETWEEN: Final = "__"
_LONGEST: Final = 64
"""What providers take as the name of a tool."""
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")
_HASHED: Final = 8
_CUT: Final = _LONGEST - _HASHED - 1


def server_prefix(server: str) -> str:
    """How the names of all tools of a server begin."""
    return f"{PREFIX}{_fitted(server)}{_BETWEEN}"


def tool_name(server: str, tool: str) -> str:
    """The name under which a model calls this tool. Too long ones end in a hash of the whole."""
    whole = server_prefix(server) + _fitted(tool)
    if len(whole) <= _LONGEST:
        return whole
    mark = blake2b(whole.encode(), digest_size=_HASHED // 2).hexdigest()
    return f"{whole[:_CUT]}_{mark}"


def matches(pattern: str, name: str) -> bool:
    """Whether a name or pattern means this text: capitals count, `*` is any text or none, the
    whole must fit, and no other character is special."""
    parts = pattern.split("*")
    if len(parts) == 1:
        return pattern == name
    if not name.startswith(parts[0]):
        return False
    at = len(parts[0])
    for part in parts[1:-1]:
        found = name.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(name) - at >= len(parts[-1]) and name.endswith(parts[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Names and patterns of the tools that a session may use; what is denied is denied.

    What it means for the tools of servers, `ServerAccess` knows.
    """

    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()

    def permits(self, name: str) -> bool:
        """Whether the tool with this name may be used."""
        return any(matches(one, name) for one in self.allow) and not self.denies(name)

    def denies(self, name: str) -> bool:
        """Whether the tool is taken away whatever allows it."""
        return any(matches(one, name) for one in self.deny)

    def within(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the names that are permitted, each once."""
        return tuple(dict.fromkeys(name for name in names if self.permits(name)))


class ServerAccess:
    """What an access means for the tools of these servers: the agent's own, of which it may use all
    that it does not deny, and the host's.

    What is allowed is read narrowly: a pattern that names a server means that one, of two the one
    with the longer name. What is denied is read in every way that there is.
    """

    def __init__(self, access: Access, *, own: Iterable[str] = (), host: Iterable[str] = ()) -> None:
        self._own = frozenset(map(_fitted, own))
        self._servers = self._own | frozenset(map(_fitted, host))
        self._deny = access.deny
        self._names = tuple(one for one in access.allow if "*" not in one)
        patterns = [one for one in access.allow if "*" in one]
        self._loose = tuple(one for one in patterns if not one.startswith(PREFIX))
        self._meant = tuple(
            reading for one in patterns if one.startswith(PREFIX) for reading in self._narrow(one)
        )

    def permits(self, server: str, tool: str) -> bool:
        """Whether this tool of this server may be used."""
        return self._allows(_fitted(server), tool_name(server, tool)) and not self.denies(server, tool)

    def denies(self, server: str, tool: str) -> bool:
        """Whether the tool is taken away whatever allows it: under the name that a model sees, or under
        its full one, cleaned or not."""
        name, fitted = tool_name(server, tool), _fitted(server)
        servers = (fitted, server)
        tools = (name.removeprefix(server_prefix(server)), _fitted(tool), tool)
        for one in self._deny:
            if _fixes_server(one):
                if any(reading.fits(a, b) for reading in _readings(one) for a in servers for b in tools):
                    return True
            elif matches(one, name) or any(
                matches(one, f"{PREFIX}{a}{_BETWEEN}{b}") for a in servers for b in tools
            ):
                return True
        return False

    def concerns(self, server: str) -> bool:
        """Whether any tool of this server could be allowed, before the server was ever asked."""
        fitted, begin = _fitted(server), server_prefix(server)
        return (
            fitted in self._own
            or any(matches(reading.server, fitted) for reading in self._meant)
            or any(begin.startswith(one.partition("*")[0]) for one in self._loose)
            or any(one.startswith(begin[:_CUT]) and self._left_to(one, fitted) for one in self._names)
        )

    def _allows(self, server: str, name: str) -> bool:
        if server in self._own or any(matches(one, name) for one in self._loose):
            return True
        tool = name.removeprefix(f"{PREFIX}{server}{_BETWEEN}")
        if any(reading.fits(server, tool) for reading in self._meant):
            return True
        return name in self._names and self._left_to(name, server)

    def _left_to(self, name: str, server: str) -> bool:
        """Whether a listed name can mean a tool of this server. Not if it is another server's by a
        pattern, too: sessions are given such names for the patterns that they were found with."""
        return not any(
            reading.server in self._servers - {server}
            and (
                reading.server in self._own
                or any(meant.fits(reading.server, reading.tool) for meant in self._meant)
            )
            for reading in _readings(name)
        )

    def _narrow(self, pattern: str) -> "tuple[_Reading, ...]":
        readings = _readings(pattern)
        named = [reading for reading in readings if reading.server in self._servers]
        return (max(named, key=lambda reading: len(reading.server)),) if named else readings


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to take a name or pattern apart."""

    server: str
    tool: str

    def fits(self, server: str, tool: str) -> bool:
        return matches(self.server, server) and matches(self.tool, tool)


def _readings(pattern: str) -> tuple[_Reading, ...]:
    """All ways to take it apart: at each `__`; if it has none, inside of each `*`."""
    rest = pattern.removeprefix(PREFIX)
    ends = [at for at in range(1, len(rest)) if rest.startswith(_BETWEEN, at)]
    if ends:
        return tuple(_Reading(rest[:at], rest[at + len(_BETWEEN) :]) for at in ends)
    return tuple(_Reading(rest[: at + 1], rest[at:]) for at, char in enumerate(rest) if char == "*")


def _fixes_server(pattern: str) -> bool:
    """Whether the server's name is over before the first `*`, which is only about its tools then."""
    head, star, _ = pattern.partition("*")
    return bool(star) and head.startswith(PREFIX) and _BETWEEN in head[len(PREFIX) + 1 :]


def _fitted(name: str) -> str:
    return _FOREIGN.sub("_", name)
