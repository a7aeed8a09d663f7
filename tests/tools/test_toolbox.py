"""Which tools of the crew a session gets."""

from pathlib import Path
from typing import cast

import anyio
import pytest

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import UnknownName
from crew_plugin.host import ToolContext, ToolError
from crew_plugin.session.scope import Asks, Mail, ResultGate, SessionScope
from crew_tools.toolbox import session_tools

pytestmark = pytest.mark.anyio


async def stored(ref: str) -> bytes:
    """A run that has stored one text."""
    if not "deadbeef1234".startswith(ref):
        raise UnknownName("artifact of this run", ref, ["deadbeef1234"])
    return b"first\nsecond\n"


def scope(root: Path, *tools: str) -> SessionScope:
    """A session whose gate and mail are never used."""
    return SessionScope(
        context=cast("AttemptContext", None),
        tools=tools,
        cwd=str(root),
        schema=None,
        gate=cast("ResultGate", None),
        mail=cast("Mail", None),
        asks=cast("Asks", None),
        read_artifact=stored,
    )


def test_every_session_gets_submit_result_and_irc_and_the_file_tools_it_lists(tmp_path: Path) -> None:
    assert [tool.name for tool in session_tools(scope(tmp_path))] == ["submit_result", "irc", "ask"]
    listed = session_tools(scope(tmp_path, "bash", "grep", "read", "mcp__x__y"))
    assert [tool.name for tool in listed] == ["submit_result", "irc", "ask", "read", "grep"]


async def test_the_file_tools_of_a_session_are_confined_to_its_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.md").write_text("outer")
    (read,) = (tool for tool in session_tools(scope(inner, "read")) if tool.name == "read")
    with anyio.fail_after(10), pytest.raises(ToolError, match="leads out of"):
        await read.execute({"path": "../secret.md"}, ToolContext(session="s", call_id="c"))


async def test_a_session_reads_what_its_run_has_stored(tmp_path: Path) -> None:
    (read,) = (tool for tool in session_tools(scope(tmp_path, "read")) if tool.name == "read")
    context = ToolContext(session="s", call_id="c")
    with anyio.fail_after(10):
        output = await read.execute({"path": "artifact:deadbeef", "offset": 2}, context)
        with pytest.raises(ToolError, match="deadbeef1234"):
            await read.execute({"path": "artifact:cafebabe"}, context)
    assert output.text.splitlines() == ["artifact:deadbeef: lines 2 to 2 of 2", "     2\tsecond"]
