"""A person is told of background runs: once, whichever processes there are."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from crew_plugin.models.records import NewRun, NewTask
from crew_plugin.project import find_project
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.testing.conversation import Conversation, Reply
from tests.cli.terminal import crew, document
from tests.cli.test_detached import DETACHED, detached
from tests.cli.test_takeover import LEASE
from tests.hosts.bub_chat import read_store, team_script
from tests.hosts.bub_terminal import BubHome, BubTerminal, scripted_model
from tests.screen import WAIT

pytestmark = [pytest.mark.bub, pytest.mark.timeout(180)]

WRITES = "import os, sys; open(sys.argv[1], 'a').write(os.environ['CREW_NOTICE_TITLE'] + '\\n')"


def held(conversation: Conversation) -> Reply:
    """The worker waits to be let go."""
    reply = team_script(conversation)
    worker = conversation.offered("submit_result") and not conversation.tool_results
    return Reply(calls=reply.calls, text=reply.text, held=True) if worker else reply


def by_command(home: BubHome, told: Path) -> None:
    """The user's settings: a program that writes a line for each notification."""
    folder = home.home / "config" / "crew-plugin"
    folder.mkdir(parents=True)
    command = json.dumps([sys.executable, "-c", WRITES, str(told)])
    text = f'[notify]\nhow = "command"\ncommand = {command}\n'
    (folder / "config.toml").write_text(text, encoding="utf-8")


def eventually(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines(told: Path) -> list[str]:
    return told.read_text(encoding="utf-8").splitlines() if told.exists() else []


def given(home: BubHome) -> list[str]:
    """What notifications were about, over all runs."""
    events = read_store(find_project(home.project), lambda store: store.tail(None, limit=10_000))
    return [str(event.data["about"]) for event in events if event.type == "notice.given"]


def test_the_end_of_a_detached_run_is_told_with_no_chat_open(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        by_command(home, told)
        with detached(home, "--agent", "explorer", "look") as said:
            eventually(lambda: not psutil.pid_exists(said["pid"]))
    assert lines(told) == ["crew: explorer completed"]


def test_however_many_processes_see_an_end_it_is_told_once(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with scripted_model(held) as model:
        home = BubHome.make(tmp_path, model.base_url)
        by_command(home, told)
        with BubTerminal(home, env=DETACHED) as one, BubTerminal(home, env=DETACHED) as two:
            for bub in (one, two):
                bub.wait_for("command list")
            two.say(",team list run")  # its crew is there now
            two.wait_for("no runs yet")
            one.say("in the background look at MARKER")
            one.wait_for("It goes on when this process is closed")
            eventually(lambda: any(asked.offered("submit_result") for asked in model.asked))
            model.release()
            one.wait_for("RECEIVED")
            eventually(lambda: lines(told) != [])
            assert (one.quit(), two.quit()) == (0, 0)
    assert lines(told) == ["crew: explorer completed"]
    assert len(given(home)) == 1


def test_that_a_detached_run_has_lost_its_process_is_told_by_its_guardian(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with scripted_model(held) as model:
        home = BubHome.make(tmp_path, model.base_url)
        by_command(home, told)
        with detached(home, "--agent", "explorer", "look") as said:
            eventually(lambda: any(asked.offered("submit_result") for asked in model.asked))
            psutil.Process(said["pid"]).kill()
            eventually(lambda: lines(told) != [])
        assert lines(told) == ["crew: explorer lost"]
        assert crew(home, "cancel", said["run_id"], env=LEASE).returncode == 0


def test_a_detached_run_that_ends_before_its_host_is_loaded_is_told_too(tmp_path: Path) -> None:
    told = tmp_path / "told"
    home = BubHome.make(tmp_path, None)  # and no model
    by_command(home, told)
    project = find_project(home.project)
    new = NewRun(goal="look", team="solo", workflow="w", cwd=str(project.root), spec="{}", background=True)
    tasks = [NewTask(key="a", title="a", role="r", agent="explorer")]
    with closing(SqliteStore.open(project)) as store:
        run = store.create_run(new, tasks, actor="operator")
    command = [sys.executable, "-m", "crew_plugin.detached.guardian"]
    command += [str(project.root), str(project.state_dir), run.id]

    subprocess.run(command, env=home.env, timeout=WAIT, check=False, capture_output=True)

    assert lines(told) == ["crew: explorer failed"]


def test_the_terminal_of_the_chat_that_asked_rings(tmp_path: Path) -> None:
    with scripted_model(held) as model:
        home = BubHome.make(tmp_path, model.base_url)
        env = {"CREW_NOTIFY__HOW": "osc9"}
        with BubTerminal(home, env=env) as bub:
            bub.wait_for("command list")
            bub.say("in the background look at MARKER")
            bub.wait_for("was started in the background")
            eventually(lambda: any(asked.offered("submit_result") for asked in model.asked))
            model.release()
            bub.wait_for("RECEIVED")
            bub.pump(1.0)
            raw = bytes(bub.raw)
            assert bub.quit() == 0
    assert raw.count(b"\x1b]9;crew: explorer completed: ") == 1
    assert len(given(home)) == 1


def test_a_projects_own_settings_cannot_have_a_command_run(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        (home.project / ".crew").mkdir()
        command = json.dumps([sys.executable, "-c", WRITES, str(told)])
        text = f'[notify]\nhow = "command"\ncommand = {command}\n'
        (home.project / ".crew" / "config.toml").write_text(text, encoding="utf-8")
        with detached(home, "--agent", "explorer", "look") as said:
            eventually(lambda: not psutil.pid_exists(said["pid"]))
        checks = document(crew(home, "doctor", "--json", env=LEASE))["checks"]
    assert lines(told) == []
    warned = [check["text"] for check in checks if check["about"] == "setting"]
    assert any("notify.command" in text and "put it into the user's file" in text for text in warned)
