"""`bub chat` in a terminal: what a person sees and can do while a crew works."""

import re
from pathlib import Path

import pytest

from crew_plugin.models.records import DeliveryState
from crew_plugin.models.states import RunState
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Reply
from tests.hosts.bub_chat import read_store, team_script
from tests.hosts.bub_terminal import BubHome, BubTerminal, scripted_model

pytestmark = [pytest.mark.bub, pytest.mark.timeout(240)]


def _held_workers(conversation: Conversation) -> Reply:
    """Workers that begin and do not go on until they are let go."""
    reply = team_script(conversation)
    first = conversation.offered("submit_result") and not conversation.tool_results
    return Reply(calls=reply.calls, held=True) if first else reply


def _states(home: BubHome) -> list[DeliveryState]:
    project = find_project(home.project)
    return read_store(project, lambda store: [row.state for row in store.list_deliveries()])


def test_a_person_watches_a_run_asks_for_its_status_and_reads_the_answer(tmp_path: Path) -> None:
    with scripted_model(_held_workers) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home) as bub:
            bub.wait_for("command list")
            bub.say("use an agent to look at [bold]MARKER[/bold]")
            bub.wait_for("explorer        started")
            bub.say(",team status")
            during = bub.wait_for("running  ")
            model.release()
            after = bub.wait_for("TOOL SAID")
            assert bub.quit() == 0

    assert "tasks: 1 running" in during
    assert "TOOL SAID" not in during
    assert "explorer        completed" in after
    assert "REPORT of" in after
    assert "[bold]MARKER[/bold]" in after, "what looks like markup is shown as it was written"


def test_a_person_cancels_a_run_while_the_turn_waits_for_it(tmp_path: Path) -> None:
    with scripted_model(_held_workers) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home) as bub:
            bub.wait_for("command list")
            bub.say("use an agent to look at app.py")
            bub.wait_for("explorer        started")
            bub.press("\x03")
            bub.wait_for("Interrupted")
            bub.say("and this is for the turn that runs")
            bub.wait_for("(steering)")
            bub.say(",team cancel last reason='wrong file'")
            bub.wait_for("wrong file")
            # What was typed during the turn reached that turn, command or no command.
            bub.wait_for("steering_reason")
            assert bub.quit() == 0

    runs = read_store(find_project(home.project), lambda store: store.list_runs())
    assert [run.state for run in runs] == [RunState.CANCELLED]
    last = model.asked[-1]
    assert any("for the turn that runs" in said for said in last.user_texts)
    assert any("wrong file" in result.text for result in last.tool_results)


def test_after_kill_9_the_next_chat_gets_the_result_once(tmp_path: Path) -> None:
    def script(conversation: Conversation) -> Reply:
        reply = team_script(conversation)
        return Reply(text=reply.text, held=True) if "RECEIVED" in reply.text else reply

    with scripted_model(script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home) as bub:
            bub.wait_for("command list")
            bub.say("look at app.py in the background")
            bub.wait_for(lambda _: any("[crew delivery" in asked.last_user for asked in model.asked))
            bub.kill()
        assert DeliveryState.SENT in _states(home)
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home) as bub:
            bub.wait_for("command list")
            bub.say("hello again")
            bub.wait_for("RECEIVED")
            bub.say("thanks")
            bub.wait_for("YOU SAID")
            bub.wait_for(lambda _: set(_states(home)) == {DeliveryState.ACKNOWLEDGED})
            assert bub.quit() == 0

    tapes = "".join(
        path.read_text(encoding="utf-8") for path in (home.home / "bub" / "tapes").glob("*.jsonl")
    )
    messages = [
        line for line in tapes.splitlines() if '"kind": "message"' in line and '"role": "user"' in line
    ]
    assert len([line for line in messages if re.search(r"\[crew delivery \S+\]", line)]) == 1


def test_after_kill_9_the_next_chat_tells_of_the_run_that_was_lost(tmp_path: Path) -> None:
    with scripted_model(_held_workers) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home) as bub:
            bub.wait_for("command list")
            bub.say("look at app.py in the background")
            bub.wait_for("explorer        started")
            bub.kill()
        with BubTerminal(home) as bub:
            bub.wait_for("command list")
            bub.say("hello again")
            lost = bub.wait_for("was lost with its process")
            run = re.search(r"run (run_\w+) was lost", lost)
            assert run is not None
            bub.say(f",team cancel {run[1]}")
            bub.wait_for("marked lost")
            assert bub.quit() == 0


def test_two_chats_on_one_project_deliver_each_result_once(tmp_path: Path) -> None:
    with scripted_model(_held_workers) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home) as one, BubTerminal(home) as two:
            for bub in (one, two):
                bub.wait_for("command list")
            one.say("look at ONE in the background")
            one.wait_for("TOOL SAID")
            # The same session by name, in another process: it sees what is owed and leaves it alone.
            two.say("good morning")
            two.wait_for("YOU SAID")
            two.say(",team status")
            two.wait_for("running  ")
            model.release()
            one.wait_for("RECEIVED")
            two.say("anything new?")
            two.wait_for("anything new?")
            one.wait_for(lambda _: set(_states(home)) == {DeliveryState.ACKNOWLEDGED})
            assert one.quit() == 0
            assert two.quit() == 0
            assert "RECEIVED" not in two.text()
