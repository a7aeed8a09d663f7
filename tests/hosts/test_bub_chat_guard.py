"""A chat's history is not cut while its crew works, and when it is cut nothing of the crew is lost."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crew_plugin.models.records import Usage
from crew_plugin.models.states import RunState
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from tests.hosts.bub_chat import Chat, chat, team_script

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bub,
    # Bub makes a client for each model call of a parent and closes none of them.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Provider-specific exceptions:DeprecationWarning"),
]

TIMEOUT = 40
GOAL = "look at app.py in the background"
_HANDS_OFF = Reply(
    calls=(ToolUse(name="tape_handoff", arguments={"name": "cut", "summary": "We talked about app.py."}),)
)


def _parent(does: Callable[[Conversation], Reply | None] = lambda _: None) -> Script:
    """Workers that are held at their first answer, and a parent that hands off when it is told to."""

    def script(conversation: Conversation) -> Reply:
        reply = team_script(conversation)
        if conversation.offered("submit_result"):
            return Reply(calls=reply.calls, held=not conversation.tool_results)
        own = does(conversation)
        if own is not None:
            return own
        if "hand off" in conversation.last_user and not conversation.new_results:
            return _HANDS_OFF
        return reply

    return script


def _tape(home: Path) -> list[dict[str, Any]]:
    lines = "".join(path.read_text(encoding="utf-8") for path in (home / "tapes").glob("*.jsonl"))
    return [json.loads(line) for line in lines.splitlines()]


def _anchors(home: Path, name: str) -> list[dict[str, Any]]:
    return [
        entry["payload"]
        for entry in _tape(home)
        if entry["kind"] == "anchor" and entry["payload"]["name"] == name
    ]


async def _started(bub: Chat) -> str:
    """A run in the background whose worker waits for its model."""
    await bub.say(GOAL)
    await bub.hear("TOOL SAID")
    await bub.until(lambda: bub.server.in_flight == 1)
    run = bub.store(lambda store: store.load_run("last"))
    assert run.state is RunState.RUNNING
    return run.id


def _told(bub: Chat, run: str, kind: str) -> list[Any]:
    return [event for event in bub.store(lambda store: store.tail(run)) if event.type == kind]


async def test_a_handoff_by_the_model_is_put_off_and_done_when_the_last_run_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "bub"
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent()) as bub:
        run = await _started(bub)
        await bub.say("please hand off")
        answer = await bub.hear("Put off by the crew")
        assert run in answer
        await bub.say("what did I say first?")
        await bub.hear("what did I say first?")
        assert _anchors(home, "cut") == []
        assert any(GOAL in text for text in bub.server.requests[-1].conversation.user_texts)

        bub.server.release()
        await bub.hear("RECEIVED")
        await bub.until(lambda: bool(_anchors(home, "cut")))
        (anchor,) = _anchors(home, "cut")
        assert anchor["state"]["summary"].startswith("We talked about app.py.")
        await bub.until(lambda: bool(_told(bub, run, "parent.compacted")))
        assert [event.data["how"] for event in _told(bub, run, "parent.compaction_put_off")] == [
            "tape.handoff"
        ]
        await bub.say("and now?")
        await bub.hear("and now?")
        assert not any(GOAL in text for text in bub.server.requests[-1].conversation.user_texts)


async def test_a_persons_reset_is_put_off_once_and_done_at_once_with_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent()) as bub:
        run = await _started(bub)
        await bub.say(",tape.reset")
        assert ",tape.reset force=true" in await bub.hear("Put off by the crew")
        await bub.say("still there?")
        await bub.hear("still there?")
        assert any(GOAL in text for text in bub.server.requests[-1].conversation.user_texts)

        await bub.say(",tape.reset force=true")
        await bub.hear("ok")
        await bub.say("and now?")
        await bub.hear("and now?")
        after = bub.server.requests[-1].conversation
        assert not any(GOAL in text for text in after.user_texts), "the history was cut"
        assert f"{GOAL}\n</goal>" in after.system, "what it must know stands there word for word"
        assert run in after.system
        assert after.system.count("<crew_runs>") == 1
        assert [event.data["how"] for event in _told(bub, run, "parent.compacted")] == ["tape.reset"]
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_without_active_runs_a_command_cuts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent()) as bub:
        await bub.say("hello there")
        await bub.hear("hello there")
        await bub.say(",tape.handoff name=mine summary='all said'")
        await bub.hear("anchor added: mine")
        await bub.until(lambda: bool(_anchors(tmp_path / "bub", "mine")))


async def test_a_history_that_is_nearly_full_is_cut_although_runs_are_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(conversation: Conversation) -> Reply | None:
        if "how full" in conversation.last_user:
            return Reply(text="VERY FULL", usage=Usage(input=192_000, output=100, calls=1))
        if any("anchor added: cut" in result.text for result in conversation.new_results):
            return Reply(text="HISTORY IS CUT")
        if "hand off" in conversation.last_user:
            return replace(_HANDS_OFF, usage=Usage(input=192_000, output=100, calls=1))
        return None

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent(full)) as bub:
        run = await _started(bub)
        await bub.say("how full is it?")
        await bub.hear("VERY FULL")
        await bub.say("please hand off")
        await bub.hear("HISTORY IS CUT")

        await bub.until(lambda: bool(_anchors(tmp_path / "bub", "cut")))
        (anchor,) = _anchors(tmp_path / "bub", "cut")
        assert run in anchor["state"]["summary"]
        assert GOAL in anchor["state"]["summary"]
        after = bub.server.requests[-1].conversation
        assert f"{GOAL}\n</goal>" in after.system
        (event,) = _told(bub, run, "parent.compacted")
        assert event.data["full"] == pytest.approx(0.96, abs=0.01)
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_at_three_quarters_of_the_window_the_model_is_asked_to_hand_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filling(conversation: Conversation) -> Reply | None:
        if "how full" in conversation.last_user:
            return Reply(text="RATHER FULL", usage=Usage(input=155_000, output=100, calls=1))
        return None

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent(filling)) as bub:
        await _started(bub)
        await bub.say("how full is it?")
        await bub.hear("RATHER FULL")
        assert "tape_handoff" not in bub.server.requests[-1].conversation.system.partition("<crew_runs>")[2]
        await bub.say("carry on, please")
        await bub.hear("carry on, please")
        asked = bub.server.requests[-1].conversation.system.partition("<crew_runs>")[2]
        assert "fills 78% of its model's context" in asked
        assert "Call tape_handoff at the next good moment" in asked
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_when_bub_drops_an_overlong_history_everything_of_the_crew_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflows(conversation: Conversation) -> Reply | None:
        if "too much" in conversation.last_user and len(conversation.messages) > 2:
            return Reply(fault=Fault.CONTEXT_OVERFLOW)
        return None

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent(overflows)) as bub:
        run = await _started(bub)
        await bub.say("this is too much")
        await bub.hear("this is too much")
        after = bub.server.requests[-1].conversation
        assert not any(GOAL in text for text in after.user_texts), "Bub dropped the history"
        assert f"{GOAL}\n</goal>" in after.system
        assert run in after.system
        assert [event.data["how"] for event in _told(bub, run, "parent.compacted")] == ["overflow"]
        bub.server.release()
        await bub.hear("RECEIVED")
