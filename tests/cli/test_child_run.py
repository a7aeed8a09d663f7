"""`crew run` with sessions in worker processes, and what a kill of each process leaves."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.scripts import demo
from tests.cli.terminal import crew, document
from tests.cli.test_takeover import LEASE, Model, commands_named, events, home_of, started, until
from tests.hosts.bub_terminal import BubHome, scripted_model
from tests.screen import WAIT

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

CHILD = ("--runtime", "child-process")


def _workers(supervisor: int) -> list[psutil.Process]:
    """The workers of a supervisor that are there now."""
    zygotes = [
        child
        for child in psutil.Process(supervisor).children()
        if "crew_hooks.bub.zygote" in " ".join(child.cmdline())
    ]
    return [worker for zygote in zygotes for worker in zygote.children()]


def _all_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [process.pid for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_team_in_worker_processes_hands_in_what_a_live_one_does(tmp_path: Path) -> None:
    with scripted_model(demo) as server:
        home = BubHome.make(tmp_path, server.base_url)
        done = crew(home, "run", "review", "look for bugs in app.py", *CHILD, "--json")
    run = document(done)
    assert done.returncode == 0, done.stderr
    assert run["runtime"] == "child"
    assert [task["state"] for task in run["tasks"]] == ["completed"] * 4
    assert "hunter2" in crew(home, "show", "last", "explore").stdout
    opened = [event["data"]["kind"] for event in events(home) if event["type"] == "session.opened"]
    assert opened == ["child"] * 4


def test_a_worker_that_is_killed_is_told_and_its_task_tried_again(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with started(home, "--agent", "looks", "look", *CHILD) as process:
            assert model.hangs.acquire(timeout=WAIT)
            (worker,) = _workers(process.pid)
            model.frees()
            worker.kill()
            process.communicate(timeout=WAIT)
        run = document(crew(home, "show", "last", "--json"))
    (task,) = run["tasks"]
    assert (run["state"], task["attempts"]) == ("completed", 2)
    (first,) = [event for event in events(home) if event["type"] == "attempt.ended"]
    assert first["cause"]["code"] == "worker_lost"
    assert "killed by signal 9" in first["cause"]["message"]


def test_workers_and_their_shells_end_with_a_supervisor_that_is_killed_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    nap = "62.75"
    model = Model(
        first=ToolUse(name="bash", arguments={"command": f"setsid sleep {nap} >&- 2>&- & echo begun"})
    )
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, acts="bash")
        with started(home, "--agent", "acts", "act", *CHILD) as process:
            assert model.hangs.acquire(timeout=WAIT)
            until(home, "session.tool_ended")
            family = psutil.Process(process.pid).children(recursive=True)
            assert len(family) >= 2
            crews = [one for one in family if "sleep" not in " ".join(one.cmdline())]
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=WAIT)
            _all_gone(crews)
        done = crew(home, "resume", "last", "--json", env=LEASE)
    assert document(done)["state"] == "completed", done.stderr
    assert commands_named(f"sleep {nap}") == []


def test_crews_do_not_start_crews_without_end(tmp_path: Path) -> None:
    def script(conversation: Conversation) -> Reply:
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "done"}),))

    with scripted_model(script) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        refused = crew(home, "run", "--agent", "looks", "look", env={"CREW_DEPTH": "3"})
        allowed = crew(home, "run", "--agent", "looks", "look", env={"CREW_DEPTH": "2"})
    assert refused.returncode == 2
    assert "limits.depth" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr


def test_a_run_in_workers_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with started(home, "--agent", "looks", "look", *CHILD) as process:
            assert model.hangs.acquire(timeout=WAIT)
            family = psutil.Process(process.pid).children(recursive=True)
            done = crew(home, "cancel", "last")
            process.communicate(timeout=WAIT)
            _all_gone(family)
    assert done.returncode == 0, done.stderr
    assert document(crew(home, "status", "last", "--json"))["state"] == "cancelled"


def test_a_supervisor_that_slept_ends_its_own_workers_when_it_finds_its_run_taken(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with started(home, "--agent", "looks", "look", *CHILD) as process:
            assert model.hangs.acquire(timeout=WAIT)
            until(home, "session.tool_ended")
            workers = _workers(process.pid)
            os.kill(process.pid, signal.SIGSTOP)
            done = crew(home, "resume", "last", "--json", env=LEASE)
            after = events(home)
            assert [worker.is_running() for worker in workers] == [True]
            os.kill(process.pid, signal.SIGCONT)
            _, told = process.communicate(timeout=WAIT)
            _all_gone(workers)
    assert document(done)["state"] == "completed", done.stderr
    assert "belongs to another supervisor now" in told
    assert "Traceback" not in told
    assert events(home) == after
