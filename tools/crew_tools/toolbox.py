"""The crew's own tools of one session of ours."""

from typing import TYPE_CHECKING

from crew_tools.ask import ask_tool
from crew_tools.files import file_tools
from crew_tools.files.artifact import reading_artifacts
from crew_tools.irc import irc_tool
from crew_tools.submit_result import submit_result_tool

if TYPE_CHECKING:
    from crew_plugin.host import ToolSpec
    from crew_plugin.session.scope import SessionScope

__all__ = ["session_tools"]


def session_tools(scope: "SessionScope") -> "tuple[ToolSpec, ...]":
    """`submit_result`, `irc` and `ask` for everybody, and of the file tools those that the agent lists,
    confined to the session's folder."""
    return (submit_result_tool(scope), irc_tool(scope), ask_tool(scope), *_files(scope))


def _files(scope: "SessionScope") -> "tuple[ToolSpec, ...]":
    return tuple(
        reading_artifacts(tool, scope.read_artifact) if tool.name == "read" else tool
        for tool in file_tools(scope.cwd, scope.tools)
    )
