"""Which servers' tools patterns mean, where the names of servers and tools have `__` in them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from bub_mcp.plugin import MCPPlugin

from crew_plugin.host import ServerNoted, SessionSpec
from crew_plugin.models.spec import McpServerSpec
from tests.hosts.bub_engine import Host
from tests.hosts.mcp_stage import Caller, call, configure, ended, heard, pids, plain, turn

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
BOTH_WAYS = "mcp__git__admin__add"
"""The tool `add` of `git__admin`, and the tool `admin__add` of `git`."""


@pytest.fixture
def git(bub_home: Path, tmp_path: Path) -> Path:
    """Configures the servers `git` and `git__admin`; where the first leaves its traces."""
    servers = {"git": plain(tmp_path / "git", "gateway"), "git__admin": plain(tmp_path / "admin")}
    configure(bub_home, servers)
    return tmp_path / "git"


@pytest.fixture
def admin(git: Path) -> Path:
    """Where the second leaves its traces."""
    return git.parent / "admin"


def offered(host: Host) -> set[str]:
    """The tools of servers that the newest request offered."""
    return {name for name in host.model.requests[-1].conversation.tools if name.startswith("mcp__")}


@pytest.mark.both_engines
async def test_a_pattern_for_one_server_gives_no_tool_of_another_one(
    hosted: Hosted, spec_of: SpecOf, git: Path, admin: Path
) -> None:
    allowed = ("mcp__git__*",)
    async with hosted(Caller(), MCPPlugin) as host:
        there = await host.engine.available_tools(allowed, str(host.folder))
        # As a run does: the names that were found, and the pattern.
        async with host.engine.open(spec_of(host, host_tools=(*there, *allowed))) as session:
            one = await call(session, BOTH_WAYS)
            other = await call(session, "mcp__git__admin__write")
            names = offered(host)
    assert one.text == "called admin__add"
    assert not other.ok
    assert names == set(there)
    assert "mcp__git__admin__write" not in names
    assert pids(admin) == [], "it is not even started"


@pytest.mark.both_engines
async def test_denying_the_tools_of_one_server_takes_those_of_no_other(
    hosted: Hosted, spec_of: SpecOf, git: Path, admin: Path
) -> None:
    denied = ("mcp__git__*",)
    async with hosted(Caller(), MCPPlugin) as host:
        there = await host.engine.available_tools(("mcp__*",), str(host.folder), denied=denied)
        spec = spec_of(host, host_tools=("mcp__*",), denied_tools=denied)
        async with host.engine.open(spec) as session:
            added = await call(session, BOTH_WAYS, a=1, b=2)
            names = offered(host)
    assert added.text == f"3 by {pids(admin)[0]}"
    assert heard(git, "tools/call") == []
    assert names == set(there)
    assert {name.startswith("mcp__git__admin__") for name in names} == {True}


@pytest.mark.parametrize("denied", [BOTH_WAYS, "mcp__git__admin__a*", "mcp__git*__add"])
async def test_a_denied_name_that_two_servers_can_have_is_denied_of_both(
    hosted: Hosted, spec_of: SpecOf, git: Path, admin: Path, denied: str
) -> None:
    spec_facts = {"host_tools": ("mcp__*",), "denied_tools": (denied,)}
    async with hosted(Caller(), MCPPlugin) as host, host.engine.open(spec_of(host, **spec_facts)) as session:
        refused = await call(session, BOTH_WAYS, a=1, b=2)
        reports = await host.engine.server_reports(("mcp__*",), str(host.folder), denied=(denied,))
    assert not refused.ok
    assert heard(git, "tools/call") == heard(admin, "tools/call") == []
    assert [BOTH_WAYS in report.denied for report in reports] == [True, True]
    assert [BOTH_WAYS in report.tools for report in reports] == [False, False]


async def test_two_servers_tools_that_would_have_one_name_are_told(
    hosted: Hosted, spec_of: SpecOf, git: Path
) -> None:
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__*",))) as session,
    ):
        events = await turn(session, BOTH_WAYS)
    assert ended(events).text == "called admin__add"
    (note,) = (event for event in events if isinstance(event, ServerNoted))
    assert note.server == "git__admin"
    assert "its tool 'add' and the tool 'admin__add' of 'git'" in note.text


async def test_an_agents_own_server_gives_no_tool_of_a_host_server_whose_name_goes_on(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    configure(bub_home, {"mine__admin": plain(tmp_path / "host")})
    own = McpServerSpec.model_validate({"name": "mine", **plain(tmp_path / "own", "gateway")})
    async with hosted(Caller(), MCPPlugin) as host:
        there = await host.engine.available_tools((), str(host.folder), servers=(own,))
        spec = spec_of(host, host_tools=there, mcp_servers=(own,))
        async with host.engine.open(spec) as session:
            one = await call(session, "mcp__mine__admin__add")
            other = await call(session, "mcp__mine__admin__write")
    assert one.text == "called admin__add"
    assert not other.ok
    assert pids(tmp_path / "host") == []
