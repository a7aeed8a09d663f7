"""What a chat must not forget of its crew when the model cuts its own history."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from crew_plugin.models.states import RunState
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_chat import chat, team_script

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bub,
    # Bub makes a client for each model call of a parent and closes none of them.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

TIMEOUT = 40


def _cuts_its_history(conversation: Conversation) -> Reply:
    """Workers that are held at their first answer, and a parent that hands off when it is told to."""
    reply = team_script(conversation)
    if conversation.offered("submit_result"):
        return Reply(calls=reply.calls, held=not conversation.tool_results)
    if any("anchor added: cut" in result.text for result in conversation.new_results):
        return Reply(text="HISTORY IS CUT")
    if "hand off" in conversation.last_user and not conversation.new_results:
        summary = {"name": "cut", "summary": "We talked about app.py."}
        return Reply(calls=(ToolUse(name="tape_handoff", arguments=summary),))
    return reply


def _anchors(home: Path) -> list[dict[str, Any]]:
    lines = "".join(path.read_text(encoding="utf-8") for path in (home / "tapes").glob("*.jsonl"))
    entries = [json.loads(line) for line in lines.splitlines()]
    return [entry["payload"] for entry in entries if entry["kind"] == "anchor"]


async def test_a_handoff_by_the_model_keeps_the_runs_in_its_anchor_and_in_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _cuts_its_history) as bub:
        await bub.say("look at app.py in the background")
        await bub.hear("TOOL SAID")
        await bub.until(lambda: bub.server.in_flight == 1)
        run = bub.store(lambda store: store.load_run("last"))
        assert run.state is RunState.RUNNING

        await bub.say("please hand off")
        await bub.hear("HISTORY IS CUT")
        await bub.say("what are you doing?")
        await bub.hear("what are you doing?")

        (anchor,) = [each for each in _anchors(tmp_path / "bub") if each["name"] == "cut"]
        summary = anchor["state"]["summary"]
        assert summary.startswith("We talked about app.py.")
        assert run.id in summary
        assert summary.count("<crew_runs>") == 1
        after = bub.server.requests[-1].conversation
        assert not any("in the background" in text for text in after.user_texts), "the history was cut"
        assert run.id in after.system
        assert after.system.count("<crew_runs>") == 1

        bub.server.release()
        assert "REPORT of" in await bub.hear("RECEIVED")
