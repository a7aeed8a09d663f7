"""What a person types in the chat is answered in a person's words, and a wrong word costs nothing."""

import asyncio
from pathlib import Path

import pytest

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
MARKUP = "[bold]ä 日本[/bold] `tick` ```"


def script(conversation: Conversation) -> Reply:
    """Workers hand in every word that they were told; those of HOLD begin and are held."""
    if not conversation.offered("submit_result"):
        return team_script(conversation)
    if "HOLD" in conversation.first_user and not conversation.tool_results:
        return Reply(calls=(ToolUse(name="ls", arguments={}),), held=True)
    told = " THEN ".join(text[-200:] for text in conversation.user_texts)
    call = submission(conversation)
    return Reply(calls=(ToolUse(name=call.name, arguments={**call.arguments, "summary": f"TOLD {told}"}),))


async def answered(bub: Chat, line: str, wanted: str) -> str:
    """What comes back for a line, and nothing that came before it."""
    bub.heard.clear()
    await bub.say(line)
    return await bub.hear(wanted)


def states(bub: Chat) -> list[RunState]:
    return bub.store(lambda store: [run.state for run in store.list_runs()])


async def test_a_person_goes_on_with_an_ended_agent_and_sees_its_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        started = await answered(bub, f',team run "it\'s FIRST {MARKUP}" agent=explorer', "was started")
        assert ",team cancel run_" in started
        assert "action=" not in started
        first = await bub.hear("RECEIVED")
        assert f"it's FIRST {MARKUP}" in first

        await answered(bub, ",team resume last and SECOND, it's more", "was started")
        second = await bub.hear("RECEIVED")
        assert f"it's FIRST {MARKUP}" in second, "it remembers what it was asked first"
        assert "and SECOND, it's more" in second
        await answered(bub, ",crew resume last and THIRD", "was started")
        third = await bub.hear("RECEIVED")
        assert "SECOND, it's more" in third
        assert "and THIRD" in third
        assert states(bub) == [RunState.COMPLETED] * 3

        health = await answered(bub, ",crew health", "supervisor")
        assert "sessions: 1 completed" in health
        assert "1 model call" in health
        runs = await answered(bub, ",crew runs", "newest runs")
        assert runs.count("solo/explorer") == 3
        assert max(map(len, runs.splitlines())) <= 76
        assert "explorer (builtin)" in await answered(bub, ",crew agents", "explorer")
        assert "Reads only" in await answered(bub, ",crew agents explorer", "agent explorer (")
        assert "and THIRD" in await answered(bub, ",crew show last", "run_")


async def test_an_agent_that_works_is_not_gone_on_with_and_its_health_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say(',team run "HOLD app.py" agent=explorer')
        await bub.until(lambda: bub.server.in_flight == 1)
        refused = await answered(bub, ",crew resume last do more", "crew: ")
        assert "steer" in refused
        health = await answered(bub, ",team health last", "supervisor")
        assert "explorer  healthy  waits for its model" in health
        status = await answered(bub, ",team status", "running")
        assert "no need to ask" not in status
        await answered(bub, ",team cancel last", "cancelled")
        assert states(bub) == [RunState.CANCELLED]
        bub.server.release()


MISTAKES = {
    ",team staus": "Did you mean ,team status?",
    ",crew help heath": "Did you mean ,crew health?",
    ",crew doctor": "In a terminal: crew doctor",
    ",team resume": "In the chat: ,team resume RUN_ID GOAL",
    ",team steer": "In the chat: ,team steer AGENT_ID MESSAGE",
    ",team cancel": "run_id is needed",
    ",team resize": "width is needed",
    ",team resize last 99999999999999999999": "width must be a whole number from 1 to 1024",
    ",team steer nobody hello": "there is no agent 'nobody' at work: no run is active",
    ",team run review": "'review' is the name of a team",
    ",team run explorer look at it": "there is an agent of this name",
    ",team run look at it": 'for one agent alone: ,team run "GOAL" agent=NAME',
    ",crew health nope": "there is no run 'nope'",
    ",team parallel nonsense": "tasks[0] must be an object",
    ",team wait": "there is no run 'last'",
}


async def test_a_mistake_is_told_with_what_to_type_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        for line, wanted in MISTAKES.items():
            answer = await answered(bub, line, f"{line[1:5]}: ")
            assert wanted in answer
            assert "action=" not in answer
        assert not bub.project.database.exists() or states(bub) == []


async def test_an_option_that_nothing_knows_is_told_and_an_agent_needs_no_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await answered(bub, ",team run agent=explorer look at app.py", "was started")
        assert "look at app.py" in await bub.hear("RECEIVED")
        told = await answered(bub, ",team run x agent=explorer widht=3", "widht")
        assert "run has no option 'widht'; did you mean width=?" in told
        assert states(bub) == [RunState.COMPLETED]


async def test_what_is_typed_for_an_agent_reaches_it_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        goal = 'rename "a" to \'b\' where x=1  and\n\n    {"k": "v\\n"} stays'
        await answered(bub, f",team run agent=explorer {goal}", "was started")
        assert goal in bub.store(lambda store: store.load_run("last").goal)
        await bub.hear("RECEIVED")
        await bub.say(",team run agent=explorer HOLD")
        await bub.until(lambda: bub.server.in_flight == 1)
        await answered(bub, ',team steer last not "a" but [bold]c[/bold]', "injected")
        sent = bub.store(lambda store: store.list_messages(store.load_run("last").id))
        assert [message.body for message in sent] == ['not "a" but [bold]c[/bold]']
        await answered(bub, ',team steer last "as one"', "injected")
        sent = bub.store(lambda store: store.list_messages(store.load_run("last").id))
        assert sent[-1].body == "as one"
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_the_help_fits_a_terminal_of_eighty_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        for line in (",team help", ",crew help", ",crew"):
            text = await answered(bub, line, "help ACTION")
            assert max(map(len, text.splitlines())) <= 76


async def test_a_person_looks_after_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await answered(bub, ",team run FIRST agent=explorer", "was started")
        await bub.hear("RECEIVED")
        await bub.until(lambda: all(row.acknowledged_at for row in bub.deliveries()))
        run_id = bub.store(lambda store: store.load_run("last")).id
        log = bub.project.log_of(run_id)
        await asyncio.to_thread(log.parent.mkdir)
        await asyncio.to_thread(log.write_text, "said")

        await answered(bub, ",crew inbox", "nothing waits for anybody")
        assert f"log {run_id}.log" in await answered(bub, ",crew cleanup dry_run=true", "this would")
        await answered(bub, ",team cleanup confirm=true", "done: delete 1 log of runs that are over")
        await answered(bub, ",team prune keep=0", "nothing was changed: this would delete run")
        await answered(bub, f",team forget {run_id}", "say confirm=true")
        assert states(bub) == [RunState.COMPLETED]
        await answered(bub, f",team forget {run_id} confirm=true", "is forgotten")
        assert states(bub) == []
        assert not log.exists()
