"""What a polite signal to each process of a run leaves: honest states, a run that goes on, no process."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.cli.terminal import Terminal, crew, document
from tests.cli.test_detached import detached
from tests.cli.test_takeover import LEASE, Model, events, home_of, until
from tests.faults.family import all_gone, family_of, guardian_of, workers_of, zygote_of
from tests.faults.stubborn import Stubborn
from tests.hosts.bub_terminal import scripted_model
from tests.hosts.mcp_stage import configure, plain, running
from tests.screen import WAIT

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

POLITE = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)


@POLITE
def test_every_process_of_a_detached_run_may_be_told_to_end(tmp_path: Path, number: int) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read, mcp__plain__*")
        (home.home / "bub").mkdir()
        configure(home.home / "bub", {"plain": plain(tmp_path / "plain")})
        with detached(home, "--agent", "looks", "look", "--runtime", "child-process") as said:
            assert model.hangs.acquire(timeout=WAIT)
            (served,) = running(tmp_path / "plain")
            zygote = zygote_of(said["pid"])
            (worker,) = workers_of(said["pid"])
            for each in (psutil.Process(served), worker):
                each.send_signal(number)
                all_gone([each])
            assert model.hangs.acquire(timeout=WAIT), "its task was not tried again"
            (second,) = workers_of(said["pid"])
            zygote.send_signal(number)
            all_gone([zygote])
            family = [*family_of(said["pid"]), second]
            guardian_of(said["pid"]).send_signal(number)
            all_gone(family)
            until(home, "run.supervisor_ended")
        lost = document(crew(home, "status", "last", "--json"))
        model.frees()
        done = crew(home, "resume", "last", "--json", env=LEASE)
        log = find_project(home.project).log_of(said["run_id"]).read_text(encoding="utf-8")
    assert lost["shown_state"] == "lost"
    assert document(done)["state"] == "completed", done.stderr
    (task,) = document(done)["tasks"]
    assert task["attempts"] == 2
    (first,) = [event for event in events(home) if event["type"] == "attempt.ended"]
    assert first["cause"]["code"] == "worker_lost"
    assert f"signal {number:d} " in first["cause"]["message"]
    assert [line for line in log.splitlines() if 'File "' in line and "/crew_" in line] == []


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)],
    ids=lambda each: each.name,
)
def test_a_run_in_a_terminal_that_is_told_to_end_is_cancelled_and_leaves_nothing(
    tmp_path: Path, number: int
) -> None:
    stubborn = Stubborn()

    def script(_: Conversation) -> Reply:
        return Reply(calls=(ToolUse(name="bash", arguments={"command": stubborn.command}),))

    with scripted_model(script) as server, stubborn.ended():
        home = home_of(tmp_path, server.base_url, acts="bash")
        with Terminal(home, ("run", "--agent", "acts", "act", "--runtime", "child-process")) as terminal:
            stubborn.until_it_runs()
            family = family_of(terminal.pid)
            os.kill(terminal.pid, number)
            status = terminal.wait()
            all_gone(family)
            stubborn.until_it_is_gone()
        run = document(crew(home, "status", "last", "--json"))
    assert (status, run["state"]) == (130, "cancelled")
    assert ("Ctrl-C" if number == signal.SIGINT else "SIGTERM") in run["cause"]["message"]
    assert "Traceback" not in terminal.text()
