"""How MCP tools are named, and which of them a pattern means."""

import pytest

from crew_plugin.mcp.names import Access, matches, spellings, tool_name


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


@pytest.mark.parametrize("pattern", ["mcp__my.server__*_delete", "mcp__my_server__*_delete", "*_delete"])
def test_a_tool_is_denied_under_every_spelling_of_its_name(pattern: str) -> None:
    tool = "x" * 80 + "_delete"
    access = Access(allow=("mcp__my_server__*",), deny=(pattern,))
    assert not access.permits(tool_name("my.server", tool), *spellings("my.server", tool))
    assert access.permits(tool_name("my.server", "read"), *spellings("my.server", "read"))


@pytest.mark.parametrize(
    ("pattern", "concerned"),
    [("mcp__git__*", True), ("mcp__g*", True), ("mcp__*", True), ("mcp__git__log", True), ("mcp__gi", False)],
)
def test_only_servers_whose_tools_could_be_meant_are_concerned(pattern: str, concerned: bool) -> None:
    assert Access(allow=(pattern,)).concerns("git") is concerned
    assert Access(allow=("mcp__other__*",)).concerns("git") is False


def test_names_are_what_providers_take_and_stay_apart_when_they_are_cut() -> None:
    assert tool_name("my.server", "do it!") == "mcp__my_server__do_it_"
    first, second = tool_name("s", "x" * 80 + "1"), tool_name("s", "x" * 80 + "2")
    assert len(first) == len(second) == 64
    assert first != second
