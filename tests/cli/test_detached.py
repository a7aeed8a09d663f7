"""Runs with a supervisor of their own: started, followed, cancelled, killed, taken up again."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from crew_plugin.models.records import DeliveryState
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Reply
from tests.cli.terminal import crew, document
from tests.cli.test_takeover import LEASE, Model, events, home_of, until
from tests.hosts.bub_chat import read_store, team_script
from tests.hosts.bub_terminal import BubHome, BubTerminal, scripted_model
from tests.screen import WAIT

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

DETACHED = {"CREW_RUNTIME__BACKGROUND": "detached", **LEASE}


@contextmanager
def detached(home: BubHome, *words: str) -> Iterator[dict[str, Any]]:
    """`crew run --detach`; what it said. Nothing of it outlives the block."""
    said = document(crew(home, "run", *words, "--detach", "--json", env=LEASE))
    try:
        yield said
    finally:
        for pid in _family(said["pid"]):
            _kill(pid)


def _family(pid: int) -> list[int]:
    """A supervisor with its guardian, if they are there."""
    if not psutil.pid_exists(pid):
        return []
    supervisor = psutil.Process(pid)
    parent = supervisor.parent()
    guarded = parent is not None and "crew_plugin.detached.guardian" in parent.cmdline()
    return [pid, parent.pid] if parent is not None and guarded else [pid]


def _kill(pid: int) -> None:
    with_pid = psutil.pid_exists(pid)
    if with_pid:
        os.kill(pid, signal.SIGKILL)


def _eventually(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _status(home: BubHome) -> dict[str, Any]:
    return document(crew(home, "status", "last", "--json"))


def test_a_detached_run_comes_to_its_end_and_leaves_no_process(tmp_path: Path) -> None:
    model = Model()
    model.free = True
    with scripted_model(model) as server:
        home = BubHome.make(tmp_path, server.base_url)
        with detached(home, "review", "look") as said:
            claimed = [event["type"] for event in events(home)]
            followed = crew(home, "events", said["run_id"], "--follow")
            family = _family(said["pid"])
            _eventually(lambda: not any(map(psutil.pid_exists, family)))
        run = _status(home)
    assert claimed[:2] == ["run.created", "run.claimed"]
    assert run["state"] == "completed", Path(said["log"]).read_text()
    assert "verify" in followed.stdout
    assert f"run {said['run_id']} completed" in Path(said["log"]).read_text()
    assert psutil.Process().pid not in family


def test_a_run_is_cancelled_while_its_supervisor_still_loads_the_host(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with detached(home, "--agent", "looks", "look"):
            done = crew(home, "cancel", "last", "--reason", "never mind")
        run = _status(home)
    assert done.returncode == 0, done.stderr
    assert (run["state"], run["cause"]["code"]) == ("cancelled", "caller_cancelled")
    assert "never mind" in run["cause"]["message"]
    assert not model.asked


def test_a_detached_run_at_work_is_cancelled_from_another_process(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with detached(home, "--agent", "looks", "look") as said:
            assert model.hangs.acquire(timeout=WAIT)
            done = crew(home, "cancel", "last")
            _eventually(lambda: not psutil.pid_exists(said["pid"]))
    assert done.returncode == 0, done.stderr
    assert _status(home)["state"] == "cancelled"


def test_how_a_supervisor_was_killed_is_known_and_its_run_goes_on(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with detached(home, "--agent", "looks", "look") as said:
            assert model.hangs.acquire(timeout=WAIT)
            until(home, "session.tool_ended")
            os.kill(said["pid"], signal.SIGKILL)
            until(home, "run.supervisor_ended")
        told = crew(home, "status", "last").stdout
        done = crew(home, "resume", "last", "--json")
    assert f"(process {said['pid']}) was killed by signal 9 (SIGKILL)" in told
    assert "crew resume" in told
    assert str(find_project(home.project).log_of(said["run_id"])) in told
    assert document(done)["state"] == "completed", done.stderr


def test_a_supervisor_that_is_told_to_end_leaves_its_run_to_be_resumed(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with detached(home, "--agent", "looks", "look") as said:
            assert model.hangs.acquire(timeout=WAIT)
            until(home, "session.tool_ended")
            os.kill(said["pid"], signal.SIGTERM)
            until(home, "run.supervisor_ended")
        lost = _status(home)
        done = crew(home, "resume", "last", "--json")
    assert (lost["state"], lost["shown_state"]) == ("running", "lost")
    assert document(done)["state"] == "completed", done.stderr


def test_what_would_keep_a_detached_run_from_working_is_told_before_it_is_written(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    done = crew(home, "run", "review", "look", "--detach")
    assert done.returncode == 1
    assert "BUB_MODEL" in done.stderr
    assert document(crew(home, "runs", "--json"))["runs"] == []


def _async_script(conversation: Conversation) -> Reply:
    """The chat's model starts an agent in the background; the agent waits to be let go."""
    reply = team_script(conversation)
    worker = conversation.offered("submit_result") and not conversation.tool_results
    return Reply(calls=reply.calls, text=reply.text, held=True) if worker else reply


def test_a_run_that_a_chat_started_outlives_it_and_the_next_chat_gets_the_result_once(tmp_path: Path) -> None:
    with scripted_model(_async_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home, env=DETACHED) as bub:
            bub.wait_for("command list")
            bub.say("in the background look at MARKER")
            bub.wait_for("It goes on when this process is closed")
            _eventually(lambda: any(conversation.offered("submit_result") for conversation in model.asked))
            assert bub.quit() == 0
        running = _status(home)
        model.release()
        _eventually(lambda: _status(home)["state"] == "completed")
        owed = document(crew(home, "inbox", "--json"))["deliveries"]
        with BubTerminal(home, env=DETACHED) as bub:
            bub.wait_for("command list")
            bub.say("hello")
            bub.wait_for("RECEIVED")
            bub.say("anything else?")
            bub.wait_for("YOU SAID")
            assert bub.quit() == 0
    states = read_store(
        find_project(home.project), lambda store: [row.state for row in store.list_deliveries()]
    )
    assert running["state"] == "running"
    assert [delivery["state"] for delivery in owed] == ["pending", "pending"]
    assert set(states) == {DeliveryState.ACKNOWLEDGED}
    given = [c for c in model.asked if any("[crew delivery" in said for said in c.user_texts)]
    assert len({said for c in given for said in c.user_texts if "[crew delivery" in said}) == 1


def test_an_open_chat_follows_a_run_that_another_process_drives_and_gets_its_result(tmp_path: Path) -> None:
    with scripted_model(_async_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home, env=DETACHED) as bub:
            bub.wait_for("command list")
            bub.say("in the background look at MARKER")
            bub.wait_for("explorer        started")
            _eventually(lambda: any(conversation.offered("submit_result") for conversation in model.asked))
            model.release()
            bub.wait_for("explorer        completed")
            bub.wait_for("RECEIVED")
            assert bub.quit() == 0
