"""MCP servers in agent files."""

from pathlib import Path

import pytest

from crew_plugin.resources.agentfile import parse_agent, render_agent
from crew_plugin.resources.keys import Notes, Place
from crew_plugin.resources.models import McpServer, Source
from crew_plugin.resources.yamltext import BadText

FILE = """---
name: asks
deny_tools: mcp__db__drop*
mcp_servers:
  db:
    command: uvx
    args: [server, --port, 5]
    env: {KEY: "${KEY}"}
  docs: {url: "https://example.org/mcp", headers: {X-Key: a}, call_seconds: 120}
---

You ask.
"""


def notes(*, trusted: bool = True) -> Notes:
    source = Source.USER if trusted else Source.PROJECT
    return Notes(place=Place(path=Path("/r/asks.md"), root=Path("/r"), source=source, trusted=trusted))


def test_servers_of_an_agent_are_read_and_written() -> None:
    agent = parse_agent(FILE, notes())
    assert agent.deny_tools == ("mcp__db__drop*",)
    assert agent.mcp_servers == (
        McpServer(name="db", command="uvx", args=("server", "--port", "5"), env={"KEY": "${KEY}"}),
        McpServer(name="docs", url="https://example.org/mcp", headers={"X-Key": "a"}, call_seconds=120),
    )
    assert parse_agent(render_agent(agent), notes()) == agent
    assert [server.name for server in agent.to_spec().mcp_servers] == ["db", "docs"]


def test_servers_of_a_project_that_is_not_trusted_are_not_used_and_it_is_said() -> None:
    told = notes(trusted=False)
    agent = parse_agent(FILE, told)
    assert agent.to_spec().mcp_servers == ()
    assert agent.to_spec().deny_tools == ("mcp__db__drop*",)
    (notice,) = told.notices
    assert "a server is a program" in notice.message


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("[1]", "must be lines of"),
        ("{a__b: {command: x}}", "cannot be called so"),
        ("{a: x}", "must have lines of"),
        ("{a: {}}", "needs either a 'command' or a 'url'"),
        ("{a: {command: x, url: 'http://x'}}", "needs either a 'command' or a 'url'"),
        ("{a: {command: x, headers: {}}}", "has no 'headers' here"),
        ("{a: {url: 'ftp://x'}}", "must begin with http"),
        ("{a: {command: ''}}", "'command' must be text"),
        ("{a: {command: x, args: y}}", "'args' must be a list"),
        ("{a: {command: x, env: [1]}}", "'env' must be lines"),
        ("{a: {command: x, env: {B: true}}}", "B must be text"),
        ("{a: {command: x, call_seconds: 0}}", "a number above 0"),
    ],
)
def test_what_is_wrong_with_a_server_is_said(written: str, wrong: str) -> None:
    with pytest.raises(BadText) as caught:
        parse_agent(f"---\nname: a\nmcp_servers: {written}\n---\n\nText.\n", notes())
    assert wrong in caught.value.message
