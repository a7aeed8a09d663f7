"""How tools of MCP servers are named for a model, and which of them a session may use."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

__all__ = ["PREFIX", "Access", "matches", "server_prefix", "spellings", "tool_name"]

PREFIX: Final = "mcp__"
_LONGEST: Final = 64
"""What providers take as the name of a tool."""
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")
_HASHED: Final = 8


def server_prefix(server: str) -> str:
    """How the names of all tools of a server begin."""
    return f"{PREFIX}{_FOREIGN.sub('_', server)}__"


def tool_name(server: str, tool: str) -> str:
    """The name under which a model calls this tool. Too long ones end in a hash of the whole."""
    whole = server_prefix(server) + _FOREIGN.sub("_", tool)
    if len(whole) <= _LONGEST:
        return whole
    mark = blake2b(whole.encode(), digest_size=_HASHED // 2).hexdigest()
    return f"{whole[: _LONGEST - _HASHED - 1]}_{mark}"


def spellings(server: str, tool: str) -> tuple[str, str]:
    """What the name of a tool would be if nothing were cut, and if nothing were replaced either: whoever
    denies it may know it so."""
    return server_prefix(server) + _FOREIGN.sub("_", tool), f"{PREFIX}{server}__{tool}"


def matches(pattern: str, name: str) -> bool:
    """Whether a name or pattern means this tool: capitals count, `*` is any text or none, the
    whole name must fit, and no other character is special."""
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
    """Names and patterns of the tools that a session may use; what is denied is denied."""

    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()

    def permits(self, name: str, *spellings: str) -> bool:
        """Whether the tool with this name may be used."""
        return any(matches(one, name) for one in self.allow) and not self.denies(name, *spellings)

    def denies(self, name: str, *spellings: str) -> bool:
        """Whether the tool is taken away whatever allows it, under its name or another spelling."""
        return any(matches(one, each) for one in self.deny for each in (name, *spellings))

    def concerns(self, server: str) -> bool:
        """Whether any tool of this server could be allowed, before the server was ever asked."""
        begin = server_prefix(server)
        heads = (pattern.partition("*") for pattern in self.allow)
        return any(
            head.startswith(begin) or (star != "" and begin.startswith(head)) for head, star, _ in heads
        )

    def within(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the names that are permitted, each once."""
        return tuple(dict.fromkeys(name for name in names if self.permits(name)))
