"""The MCP servers that an agent's file describes: `mcp_servers`, by name."""

from collections.abc import Callable, Mapping
from typing import Final

from crew_plugin.resources.keys import Notes, Section, is_name
from crew_plugin.resources.models import McpServer
from crew_plugin.resources.yamltext import BadText, Json

__all__ = ["parse_servers", "servers_values"]

_KEY: Final = "mcp_servers"
_STARTED: Final = frozenset({"command", "args", "env"})
_REACHED: Final = frozenset({"url", "headers"})
_BOTH: Final = frozenset({"call_seconds"})


def parse_servers(section: Section, notes: Notes) -> tuple[McpServer, ...]:
    """The servers, in the order of the file.

    Raises:
        BadText: if one of them cannot be understood.
    """
    line = section.line(_KEY)
    servers = tuple(_server(name, value, line) for name, value in section.mapping(_KEY).items())
    if servers and not notes.place.trusted:
        notes.say(
            line,
            f"{_KEY!r} is not used: a server is a program, and this project is not in the user's "
            "trusted_projects",
        )
    return servers


def _server(name: str, value: Json, line: int) -> McpServer:
    def bad(wanted: str) -> BadText:
        return BadText(f"{_KEY!r}: server {name!r} {wanted}", line)

    if not is_name(name) or "__" in name:
        raise bad("cannot be called so: letters, digits, '-' and single '_'")
    if not isinstance(value, dict):
        raise bad("must have lines of command, args, env, or of url, headers")
    if ("command" in value) == ("url" in value):
        raise bad("needs either a 'command' or a 'url'")
    allowed = (_STARTED if "command" in value else _REACHED) | _BOTH
    if unknown := set(value) - allowed:
        raise bad(f"has no {min(unknown)!r} here; it has {', '.join(sorted(allowed))}")
    return McpServer(
        name=name,
        command=_text(value.get("command"), bad, "'command' must be text"),
        args=_texts(value.get("args"), bad),
        env=_table(value.get("env"), bad, "env"),
        url=_address(value.get("url"), bad),
        headers=_table(value.get("headers"), bad, "headers"),
        call_seconds=_seconds(value.get("call_seconds"), bad),
    )


type _Bad = Callable[[str], BadText]


def _text(value: Json, bad: _Bad, wanted: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise bad(wanted)
    return value


def _address(value: Json, bad: _Bad) -> str | None:
    wanted = "'url' must begin with http:// or https://"
    url = _text(value, bad, wanted)
    if url is not None and not url.startswith(("http://", "https://")):
        raise bad(wanted)
    return url


def _texts(value: Json, bad: _Bad) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad("'args' must be a list")
    return tuple(_plain(one, bad, "'args' must be texts") for one in value)


def _table(value: Json, bad: _Bad, key: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(f"{key!r} must be lines of 'NAME: value'")
    return {name: _plain(one, bad, f"{key!r}: {name} must be text") for name, one in value.items()}


def _plain(value: Json, bad: _Bad, wanted: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise bad(wanted)
    return str(value)


def _seconds(value: Json, bad: _Bad) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise bad("'call_seconds' must be a number above 0")
    return float(value)


def servers_values(servers: tuple[McpServer, ...]) -> dict[str, Json]:
    """The servers as they are written."""
    values: dict[str, Json] = {}
    for server in servers:
        given: dict[str, Json] = {
            "command": server.command,
            "args": [*server.args] or None,
            "env": {**server.env} or None,
            "url": server.url,
            "headers": {**server.headers} or None,
            "call_seconds": server.call_seconds,
        }
        values[server.name] = {key: value for key, value in given.items() if value is not None}
    return values
