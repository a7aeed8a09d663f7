"""Live sessions inside a real Bub are told things, stopped and woken: by hand, by model, by terminal."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crew_plugin.models.records import EventRecord
from crew_plugin.models.states import RunState
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.scripts import submission
from tests.hosts.bub_chat import Chat, chat, team_script

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bub,
    # Bub makes a client for each model call of a parent and closes none of them.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

TIMEOUT = 60
ROOT = Path(__file__).resolve().parents[2]


def script(conversation: Conversation) -> Reply:
    """Workers look around, held until they are let go, and hand in the last thing they were told."""
    if not conversation.offered("submit_result"):
        return parent(conversation)
    told = conversation.user_texts[-1]
    if "ends at once" in conversation.first_user and "one more thing" not in told:
        return handed_in(conversation, "done")
    if "one more thing" in told:
        return Reply(text="noted")
    if len(conversation.user_texts) == 1 and not conversation.tool_results:
        return Reply(calls=(ToolUse(name="ls", arguments={}),), held=True)
    return handed_in(conversation, told)


def handed_in(conversation: Conversation, summary: str) -> Reply:
    call = submission(conversation)
    return Reply(calls=(ToolUse(name=call.name, arguments={**call.arguments, "summary": f"TOLD {summary}"}),))


def parent(conversation: Conversation) -> Reply:
    said = conversation.last_user
    if conversation.new_results or "tell it" not in said:
        return team_script(conversation)
    return Reply(
        calls=(ToolUse(name="crew_agent_steer", arguments={"agent_id": "explorer", "message": said}),)
    )


async def begun(bub: Chat, words: str) -> None:
    """A worker is at its first model call, which is held."""
    await bub.say(words)
    await bub.until(lambda: bub.server.in_flight == 1)


def newest(bub: Chat, kind: str) -> EventRecord:
    def look(events: list[EventRecord]) -> EventRecord:
        return [event for event in events if event.type == kind][-1]

    return bub.store(lambda store: look(store.tail(None, limit=100_000)))


async def test_a_person_steers_a_session_while_the_turn_that_waits_for_it_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await begun(bub, "use an agent for app.py")
        await bub.say(",team steer last look at auth.py first")
        assert "/explorer: injected" in await bub.hear("injected")
        bub.server.release()
        assert "look at auth.py first" in await bub.hear("TOOL SAID")
        assert newest(bub, "control.applied").data["outcome"] == "injected"


async def test_the_model_steers_its_background_agent_and_another_process_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say("look at app.py in the background")
        await bub.hear("was started in the background")
        await bub.until(lambda: bub.server.in_flight == 1)
        await bub.say("tell it: be brief")
        assert "/explorer: injected" in await bub.hear("injected")

        refused = await asyncio.to_thread(crew, bub, "steer", "explorer", "from the terminal")
        assert refused.returncode == 2
        assert "belongs to the session" in refused.stderr
        told = await asyncio.to_thread(crew, bub, "steer", "explorer", "from the terminal", "--force")
        assert "/explorer: injected" in told.stdout, told.stderr
        requested, applied = newest(bub, "control.requested"), newest(bub, "control.applied")
        assert requested.data["force"] is True
        assert requested.data["message_id"] == applied.data["message_id"]

        bub.server.release()
        assert "from the terminal" in await bub.hear("RECEIVED")
        worker = [
            each.conversation for each in bub.server.requests if each.conversation.offered("submit_result")
        ]
        told_texts = "\n".join(worker[-1].user_texts)
        assert (told_texts.count("be brief"), told_texts.count("from the terminal")) == (1, 1)


def crew(bub: Chat, *words: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(str(ROOT / part) for part in (".", "hooks", "tools"))
    return subprocess.run(
        [sys.executable, "-m", "crew_plugin.cli", *words, "--project", str(bub.project.root)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_a_turn_is_broken_off_and_the_same_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await begun(bub, "use an agent for app.py")
        await bub.say(",team steer last look elsewhere stop=turn")
        await bub.hear("injected")
        # What was held is never sent: its turn is over.
        assert "look elsewhere" in await bub.hear("TOOL SAID")
        assert newest(bub, "control.requested").data["verb"] == "interrupt"
        bub.server.release()


async def test_one_agent_and_a_whole_run_are_stopped_and_a_run_is_resized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        tasks = '[{"goal": "part one"}, {"goal": "part two"}, {"goal": "part three"}]'
        await bub.say(f",team parallel '{tasks}' concurrency=1")
        await bub.until(lambda: bub.server.in_flight == 1)
        await bub.say(",crew resize 2")
        assert "2 sessions at once instead of 1" in await bub.hear("sessions at once")
        await bub.until(lambda: bub.server.in_flight == 2)
        await bub.say(",crew steer t1 stop=agent")
        assert "/t1: cancelled" in await bub.hear("/t1")
        await bub.say(",crew steer last stop=tree")
        await bub.hear("it was cancelled; finished results are kept")
        await bub.until(lambda: bub.store(lambda store: store.load_run("last").state) is RunState.CANCELLED)
        bub.server.release()


async def test_an_agent_that_has_ended_is_woken_while_its_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        tasks = '[{"goal": "this ends at once"}, {"goal": "part two"}]'
        await bub.say(f",team parallel '{tasks}'")
        await bub.until(lambda: bub.server.in_flight == 1 and ended(bub, "t1"))
        await bub.say(",team steer last t1 one more thing")
        assert "/t1: woken" in await bub.hear("woken")
        await bub.until(lambda: heard(bub, "one more thing"))
        bub.server.release()
        await bub.until(lambda: bub.store(lambda store: store.load_run("last").state) is RunState.COMPLETED)


def ended(bub: Chat, key: str) -> bool:
    if not bub.project.database.exists():
        return False
    return bub.store(lambda store: store.load_task(store.load_run("last").id, key).ended_at is not None)


def heard(bub: Chat, words: str) -> bool:
    return any(words in each.conversation.user_texts[-1] for each in bub.server.requests)
