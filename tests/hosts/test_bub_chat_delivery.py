"""Results of background runs reach the chat that asked for them, once."""

import asyncio
import re
from pathlib import Path

import pytest

from crew_hooks.bub.compat.parent import user_messages
from crew_plugin.models.records import DeliveryRecord, DeliveryState
from crew_plugin.models.states import RunState
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_chat import SESSION, Chat, chat, team_script

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bub,
    # Bub makes a client for each model call of a parent and closes none of them.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

TIMEOUT = 40
DELIVERED = re.compile(r"\[crew delivery (\S+?)\]")


def _ends(bub: Chat) -> list[DeliveryRecord]:
    return [row for row in bub.deliveries() if row.task_id is None]


def _sent(bub: Chat) -> bool:
    return any(row.state is DeliveryState.SENT for row in bub.deliveries())


async def test_an_idle_chat_gets_the_result_as_a_new_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, team_script) as bub:
        await bub.say("look at app.py in the background")
        started = await bub.hear("TOOL SAID")
        received = await bub.hear("RECEIVED")

        assert "was started in the background" in started
        assert "REPORT of" in received
        assert "YOU SAID" not in received
        # The next turn proves that the one before is over and its tape saved.
        await bub.say("thanks")
        await bub.hear("YOU SAID")
        assert {row.state for row in bub.deliveries()} == {DeliveryState.ACKNOWLEDGED}
        said = await user_messages(bub.framework, SESSION)
        assert len([text for text in said if DELIVERED.search(text)]) == 1


async def test_a_busy_chat_gets_the_result_steered_into_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(conversation: Conversation) -> Reply:
        reply = team_script(conversation)
        # The turn goes on until the result is there: its last answer is held back.
        return Reply(text=reply.text, held=True) if "TOOL SAID" in reply.text else reply

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say("look at app.py in the background")
        # What is let go is what the server holds by now.
        await bub.until(lambda: _sent(bub) and bub.server.in_flight == 1)
        bub.server.release()
        received = await bub.hear("RECEIVED")

        assert "TOOL SAID" in received, "the same turn answered both"
        await bub.say("thanks")
        await bub.hear("YOU SAID")
        assert {row.state for row in bub.deliveries()} == {DeliveryState.ACKNOWLEDGED}
        assert len(bub.heard) == 2


async def test_two_runs_that_end_together_are_both_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(conversation: Conversation) -> Reply:
        reply = team_script(conversation)
        first = conversation.offered("submit_result") and not conversation.tool_results
        return Reply(calls=reply.calls, held=True) if first else reply

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say("look at ONE in the background")
        await bub.hear("TOOL SAID")
        bub.heard.clear()
        await bub.say("look at TWO in the background")
        await bub.hear("TOOL SAID")
        await bub.until(lambda: bub.server.in_flight == 2)
        bub.server.release()
        await bub.until(lambda: [row.state for row in _ends(bub)] == [DeliveryState.ACKNOWLEDGED] * 2)

        await bub.say("thanks")
        await bub.hear("YOU SAID")
        said = [text for text in await user_messages(bub.framework, SESSION) if DELIVERED.search(text)]
        assert len(said) == 2
        assert any("ONE" in text for text in said)
        assert any("TWO" in text for text in said)
        assert {row.state for row in bub.deliveries()} == {DeliveryState.ACKNOWLEDGED}


async def test_a_turn_that_is_cancelled_with_the_result_in_it_gets_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def script(conversation: Conversation) -> Reply:
        reply = team_script(conversation)
        if "TOOL SAID" in reply.text:
            return Reply(text=reply.text, held=True)
        if "RECEIVED" in reply.text:
            seen.append(reply.text)
            # The first time the turn is cancelled while the model answers.
            return Reply(text=reply.text, held=len(seen) == 1)
        return reply

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say("look at app.py in the background")
        # What is let go is what the server holds by now.
        await bub.until(lambda: _sent(bub) and bub.server.in_flight == 1)
        bub.server.release()
        await bub.until(lambda: bool(seen))
        await bub.framework.quit_via_channel_router(SESSION)
        await bub.hear("RECEIVED")

        await bub.say("thanks")
        await bub.hear("YOU SAID")
        said = [text for text in await user_messages(bub.framework, SESSION) if DELIVERED.search(text)]
        assert len(said) == 1
        assert {row.state for row in bub.deliveries()} == {DeliveryState.ACKNOWLEDGED}


async def test_what_a_dead_process_had_sent_is_delivered_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_model(conversation: Conversation) -> Reply:
        reply = team_script(conversation)
        return Reply(text=reply.text, held=True) if "RECEIVED" in reply.text else reply

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, no_model) as bub:
        await bub.say("look at app.py in the background")
        await bub.hear("TOOL SAID")
        await bub.until(lambda: _sent(bub))

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, team_script) as bub:
        await bub.say("hello again")
        await bub.hear("RECEIVED")
        bub.heard.clear()
        await bub.say("thanks")
        await bub.hear("thanks")
        said = [text for text in await user_messages(bub.framework, SESSION) if DELIVERED.search(text)]
        assert len(said) == 1
        assert {row.state for row in bub.deliveries()} == {DeliveryState.ACKNOWLEDGED}


async def test_a_result_that_waited_too_long_expires_and_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREW_DELIVERY__KEEP_HOURS", "1e-9")

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, team_script) as bub:
        await bub.say("look at app.py in the background")
        await bub.hear("TOOL SAID")
        await bub.until(lambda: {row.state for row in bub.deliveries()} == {DeliveryState.EXPIRED})
        run = bub.store(lambda store: store.load_run("last"))
        events = bub.store(lambda store: store.tail(run.id))
        assert [event.type for event in events].count("delivery.expired") == len(bub.deliveries())
        assert not any(event.type == "delivery.sent" for event in events)

        await bub.say(",team status")
        assert run.id in await bub.hear("tasks: 1 completed")
        await bub.say(f",crew show {run.id}")
        await bub.hear("REPORT of")
        assert not any("[crew delivery" in said for said in await user_messages(bub.framework, SESSION))


async def test_the_model_is_told_of_its_runs_at_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(conversation: Conversation) -> Reply:
        reply = team_script(conversation)
        first = conversation.offered("submit_result") and not conversation.tool_results
        return Reply(calls=reply.calls, held=True) if first else reply

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say("look at app.py in the background")
        await bub.hear("TOOL SAID")
        await bub.until(lambda: bub.server.in_flight == 1)
        run = bub.store(lambda store: store.load_run("last"))
        await bub.say(",tape.handoff name=cut force=true")
        await bub.hear("anchor added")
        await bub.say("what are you doing?")
        await bub.hear("what are you doing?")

        last = bub.server.requests[-1].conversation
        assert run.id in last.system
        assert last.system.count("<crew_runs>") == 1
        assert RunState.RUNNING in last.system
        assert not any("look at app.py" in text for text in last.user_texts), "the history was cut"
        bub.server.release()
        await bub.hear("RECEIVED")
        await bub.say("and now?")
        await bub.hear("and now?")
        assert "<crew_runs>" not in bub.server.requests[-1].conversation.system


# --- results that are joined ---------------------------------------------------------------------

BOTH = "start QUICK and SLOW together"


def _together(conversation: Conversation) -> Reply:
    """A parent that starts two agents in one turn; the slow one is held back."""
    reply = team_script(conversation)
    if conversation.offered("submit_result"):
        slow = "SLOW" in conversation.first_user and not conversation.tool_results
        return Reply(calls=reply.calls, held=slow)
    if BOTH in conversation.last_user and not conversation.new_results:
        return Reply(
            calls=tuple(
                ToolUse(
                    name="team",
                    arguments={"action": "run", "agent": "explorer", "goal": name, "async": True},
                )
                for name in ("QUICK", "SLOW")
            )
        )
    return reply


async def _delivered(bub: Chat) -> list[str]:
    said = await user_messages(bub.framework, SESSION)
    return [text for text in said if DELIVERED.search(text)]


def _all_there(bub: Chat) -> bool:
    return {row.state for row in bub.deliveries()} == {DeliveryState.ACKNOWLEDGED} and len(_ends(bub)) == 2


def _types(bub: Chat) -> list[str]:
    return bub.store(lambda store: [event.type for event in store.tail(None, limit=10_000)])


async def test_runs_that_were_started_in_one_turn_are_delivered_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _together) as bub:
        await bub.say(BOTH)
        await bub.hear("TOOL SAID")
        await bub.until(lambda: "delivery.held" in _types(bub))
        assert not _sent(bub)
        await bub.say(",team inbox")
        assert "until" in await bub.hear("waits for the others of its group")
        bub.server.release()
        await bub.until(lambda: _all_there(bub))

        (message,) = await _delivered(bub)
        assert "2 of 2 background runs that were started together" in message
        assert message.count("REPORT of") == 2
        assert "SLOW" in message
        assert "QUICK" in message


async def test_a_straggler_is_not_waited_for_and_nothing_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREW_DELIVERY__FIRST_SECONDS", "0.01")

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _together) as bub:
        await bub.say(BOTH)
        first = await bub.hear("RECEIVED")
        assert "1 of 2 background runs" in first
        assert "Still under way" in first
        bub.server.release()
        await bub.until(lambda: _all_there(bub))

        early, rest = await _delivered(bub)
        assert ("REPORT of" in early, "QUICK" in early) == (True, True)
        assert rest.count("REPORT of") == 1
        assert "SLOW" in rest
        assert "QUICK" not in rest


async def test_where_nothing_is_joined_each_task_is_delivered_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREW_DELIVERY__JOIN", "off")

    def script(conversation: Conversation) -> Reply:
        if "both tasks" in conversation.last_user and not conversation.new_results:
            tasks = [{"goal": name, "agent": "explorer"} for name in ("QUICK", "SLOW")]
            call = ToolUse(name="team", arguments={"action": "parallel", "tasks": tasks, "async": True})
            return Reply(calls=(call,))
        return _together(conversation)

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say("both tasks")
        first = await bub.hear("RECEIVED")
        assert "still under way: " in first
        assert first.count("REPORT of") == 1
        bub.server.release()
        await bub.until(lambda: _ends(bub) != [] and all(row.acknowledged_at for row in bub.deliveries()))

        early, rest = await _delivered(bub)
        assert "QUICK" in early
        assert rest.count("REPORT of") == 1
        assert "handed over before: " in rest


async def test_what_went_wrong_comes_first_in_what_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(conversation: Conversation) -> Reply:
        reply = _together(conversation)
        if conversation.offered("submit_result") and "SLOW" in conversation.first_user:
            gave_up = ToolUse(name="submit_result", arguments={"error": "there is no such file"})
            return Reply(calls=(gave_up,), held=reply.held)
        return reply

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say(BOTH)
        await bub.hear("TOOL SAID")
        await bub.until(lambda: "delivery.held" in _types(bub))
        bub.server.release()
        await bub.until(lambda: _all_there(bub))

        (message,) = await _delivered(bub)
        assert "(1 failed, 1 completed)" in message
        assert message.index("there is no such file") < message.index("REPORT of")


async def test_a_part_that_a_dead_process_had_sent_comes_once_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREW_DELIVERY__FIRST_SECONDS", "0.01")

    def dies(conversation: Conversation) -> Reply:
        reply = _together(conversation)
        return Reply(text=reply.text, held=True) if "RECEIVED" in reply.text else reply

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, dies) as bub:
        await bub.say(BOTH)
        await bub.hear("TOOL SAID")
        await bub.until(lambda: _sent(bub))  # on no tape: its turn does not end

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _together) as bub:
        await bub.say("hello again")
        await bub.hear("RECEIVED")
        bub.server.release()
        await bub.until(lambda: _all_there(bub))
        assert "".join(await _delivered(bub)).count("REPORT of") == 1
