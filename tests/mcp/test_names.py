"""How MCP tools are named, and which of them a pattern means."""

import pytest

from crew_plugin.mcp.names import Access, ServerAccess, matches, tool_name

BOTH = ("git", "git__admin")
"""The tool `admin__x` of the first and the tool `x` of the second have the same full name."""


def access(*allow: str, deny: tuple[str, ...] = (), host: tuple[str, ...] = BOTH) -> ServerAccess:
    return ServerAccess(Access(allow=allow, deny=deny), host=host)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("mcp__a__b", "mcp__a__b", True),
        ("mcp__a__b", "mcp__a__bc", False),
        ("mcp__a__*", "mcp__a__", True),
        ("mcp__a__*", "mcp__a__b__c", True),
        ("mcp__*__delete*", "mcp__files__delete_all", True),
        ("mcp__*__delete*", "mcp__files__undo", False),
        ("*read*read*", "read", False),
        ("a*a", "a", False),
        ("mcp__A__*", "mcp__a__b", False),
        ("mcp__a__[bc]", "mcp__a__b", False),
        ("*", "bash", True),
    ],
)
def test_a_pattern_fits_the_whole_name_and_star_is_any_text(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


def test_denied_is_denied_whatever_allows_it() -> None:
    access = Access(allow=("mcp__a__*", "mcp__a__drop"), deny=("*drop*",))
    assert access.within(["mcp__a__read", "mcp__a__drop", "mcp__b__read"]) == ("mcp__a__read",)


@pytest.mark.parametrize(
    "pattern", ["mcp__my.server__*_delete", "mcp__my_server__*_delete", "*_delete", "mcp__my*_delete"]
)
def test_a_tool_is_denied_under_every_spelling_of_its_name(pattern: str) -> None:
    tool = "x" * 80 + "_delete"
    mine = access("mcp__my_server__*", deny=(pattern,), host=("my.server",))
    assert not mine.permits("my.server", tool)
    assert mine.permits("my.server", "read")


@pytest.mark.parametrize("server", ["my.server", "m" * 80])
def test_a_tool_is_allowed_and_denied_under_the_name_that_a_model_sees(server: str) -> None:
    name = tool_name(server, "x" * 80)
    assert access(name, host=(server,)).concerns(server)
    assert access(name, host=(server,)).permits(server, "x" * 80)
    assert not access("mcp__*", deny=(name,), host=(server,)).permits(server, "x" * 80)


@pytest.mark.parametrize(
    ("pattern", "concerned"),
    [("mcp__git__*", True), ("mcp__g*", True), ("mcp__*", True), ("mcp__git__log", True), ("mcp__gi", False)],
)
def test_only_servers_whose_tools_could_be_meant_are_concerned(pattern: str, concerned: bool) -> None:
    assert access(pattern).concerns("git") is concerned
    assert access("mcp__other__*").concerns("git") is False


@pytest.mark.parametrize(
    ("allowed", "server", "tool", "permitted"),
    [
        ("mcp__git__*", "git", "log", True),
        ("mcp__git__*", "git", "admin__x", True),
        ("mcp__git__*", "git__admin", "x", False),
        ("mcp__git__*", "git_", "x", False),
        ("mcp__git__a*", "git__admin", "x", False),
        ("mcp__git__admin__*", "git__admin", "x", True),
        ("mcp__git__admin__*", "git", "admin__x", False),
        ("mcp__git__*__x", "git", "admin__x", True),
        ("mcp__git__*__x", "git__admin", "x", False),
        ("mcp__git__admin__x", "git", "admin__x", True),
        ("mcp__git__admin__x", "git__admin", "x", True),
        ("mcp__*", "git__admin", "x", True),
        ("*", "git__admin", "x", True),
        ("mcp__git*", "git__admin", "x", True),
        ("mcp__git*__*", "git__admin", "x", True),
        ("mcp__git*__x", "git__admin", "x", True),
        ("mcp__git*__x", "git", "admin__x", False),
        ("mcp__*__x", "git", "admin__x", False),
        ("mcp__git_*", "git", "log", False),
    ],
)
def test_what_is_allowed_is_allowed_of_the_server_that_is_meant(
    allowed: str, server: str, tool: str, permitted: bool
) -> None:
    mine = access(allowed, host=(*BOTH, "git_"))
    assert mine.permits(server, tool) is permitted
    assert mine.concerns(server) or not permitted


def test_the_longer_name_is_meant_only_where_there_is_such_a_server() -> None:
    alone = access("mcp__git__admin__*", host=("git",))
    assert alone.permits("git", "admin__x")
    assert not alone.permits("git", "log")
    assert not access("mcp__git__admin__*").concerns("git")


@pytest.mark.parametrize(
    ("denied", "server", "tool", "permitted"),
    [
        ("mcp__git__*", "git", "log", False),
        ("mcp__git__*", "git", "admin__x", False),
        ("mcp__git__*", "git__admin", "x", True),
        ("mcp__git__a*", "git__admin", "x", True),
        ("mcp__git__admin__*", "git__admin", "x", False),
        ("mcp__git__admin__*", "git", "admin__x", False),
        ("mcp__git__admin__*", "git", "log", True),
        ("mcp__git__*__x", "git__admin", "x", False),
        ("mcp__git__admin__x", "git", "admin__x", False),
        ("mcp__git__admin__x", "git__admin", "x", False),
        ("mcp__*", "git__admin", "x", False),
        ("*", "git__admin", "x", False),
        ("mcp__git*", "git__admin", "x", False),
        ("mcp__git*__x", "git", "admin__x", False),
        ("mcp__*__x", "git", "admin__x", False),
    ],
)
def test_what_is_denied_is_denied_of_every_server_that_can_be_meant(
    denied: str, server: str, tool: str, permitted: bool
) -> None:
    assert access("mcp__*", deny=(denied,)).permits(server, tool) is permitted


def test_a_name_that_a_pattern_was_found_with_gives_no_tool_of_another_server() -> None:
    found = "mcp__git__admin__x"
    assert not access("mcp__git__*", found).permits("git__admin", "x")
    assert not access("mcp__git__*", found).concerns("git__admin")
    own = ServerAccess(Access(allow=(found,)), own=("git",), host=("git__admin",))
    assert own.permits("git", "admin__x")
    assert not own.concerns("git__admin")


def test_an_agent_may_use_all_tools_of_its_own_servers_that_it_does_not_deny() -> None:
    own = ServerAccess(Access(allow=(), deny=("mcp__db__drop*",)), own=("db",), host=("git", "db__admin"))
    assert own.permits("db", "read")
    assert not own.permits("db", "drop_all")
    assert not own.concerns("db__admin")
    assert not own.permits("db__admin", "read")


def test_names_are_what_providers_take_and_stay_apart_when_they_are_cut() -> None:
    assert tool_name("my.server", "do it!") == "mcp__my_server__do_it_"
    first, second = tool_name("s", "x" * 80 + "1"), tool_name("s", "x" * 80 + "2")
    assert len(first) == len(second) == 64
    assert first != second
