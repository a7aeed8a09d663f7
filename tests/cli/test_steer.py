"""`crew steer` and `crew resize`, asked from one process and carried out in another."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "hooks", "tools")),
}


@contextmanager
def supervising(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A run in a process of its own: `quick` has ended, `slow` is at work, `last` waits for it."""
    command = [sys.executable, str(ROOT / "tests" / "engine" / "supervising.py"), str(folder)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


@dataclass(frozen=True)
class Other:
    """A run that another process supervises."""

    folder: Path
    run_id: str


@pytest.fixture(scope="module")
def going_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other]:
    """One that no test ends."""
    folder = tmp_path_factory.mktemp("project")
    with supervising(folder) as (run_id, _):
        yield Other(folder, run_id)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    """One for a single test."""
    with supervising(tmp_path) as (run_id, _):
        yield Other(tmp_path, run_id)


def crew(folder: Path, *words: str) -> Result:
    places = ["--project", str(folder), "--state-dir", str(folder / "state")]
    return CliRunner().invoke(build_app(), [*words, *places])


def crew_json(folder: Path, *words: str, code: int = 0) -> Any:
    done = crew(folder, *words, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_a_session_of_another_process_is_told_something_and_the_receipt_can_be_read_later(
    going_on: Other,
) -> None:
    report = crew_json(going_on.folder, "steer", going_on.run_id, "slow", "look at auth.py")
    assert (report["outcome"], report["to"], report["run_id"]) == ("injected", "slow", going_on.run_id)
    mails = crew_json(going_on.folder, "show", going_on.run_id, "slow", "--mail")["mail"]
    (mail,) = (mail for mail in mails if mail["text"] == "look at auth.py")
    assert (mail["id"], mail["state"], mail["text"]) == (report["message_id"], "read", "look at auth.py")
    assert (
        f"message_id={mail['id']} outcome=injected" in crew(going_on.folder, "events", going_on.run_id).stdout
    )


def test_the_run_may_be_left_out_while_only_one_is_active(going_on: Other) -> None:
    told = crew(going_on.folder, "steer", "slow", "hurry")
    assert told.stdout == f"{going_on.run_id}/slow: injected; it sees this at its next step\n"
    by_slash = crew(going_on.folder, "steer", f"{going_on.run_id}/last", "be brief")
    assert f"{going_on.run_id}/last: queued: the task has not begun" in by_slash.stdout
    unknown = crew(going_on.folder, "steer", "slwo", "hurry")
    assert unknown.exit_code == 2
    assert f"{going_on.run_id}/slow" in unknown.stderr
    whole = crew(going_on.folder, "steer", going_on.run_id, "hurry")
    assert f"has 3 tasks, name one of them: {going_on.run_id}/slow" in whole.stderr


def test_a_run_whose_supervisor_died_does_not_stand_in_the_way(tmp_path: Path) -> None:
    with supervising(tmp_path) as (_, process):
        process.kill()
        process.wait()
    with supervising(tmp_path) as (run_id, _):
        assert crew_json(tmp_path, "steer", "slow", "hurry")["run_id"] == run_id
        assert crew_json(tmp_path, "resize", "5")["run_id"] == run_id


def test_a_task_that_has_ended_is_woken(going_on: Other) -> None:
    report = crew_json(going_on.folder, "steer", going_on.run_id, "quick", "one more thing", "--follow-up")
    assert report["outcome"] == "woken"


def test_a_turn_and_an_agent_are_stopped(other: Other) -> None:
    turn = crew_json(other.folder, "steer", other.run_id, "slow", "otherwise", "--stop", "turn")
    assert turn["outcome"] == "injected"
    agent = crew_json(other.folder, "steer", "slow", "--stop", "agent")
    assert (agent["outcome"], agent["task"], agent["state"]) == ("cancelled", "slow", "cancelled")


def test_a_tree_is_stopped(other: Other) -> None:
    (stopped,) = crew_json(other.folder, "steer", other.run_id, "--stop", "tree")["runs"]
    assert (stopped["run_id"], stopped["outcome"]) == (other.run_id, "cancelled")
    late = crew(other.folder, "steer", other.run_id, "slow", "too late")
    assert late.exit_code == 2
    assert "the run has ended (cancelled); to go on with one of its agents: crew_agent with" in late.stderr
    assert crew_json(other.folder, "steer", other.run_id, "slow", "too late", code=2)["outcome"] == "failed"


def test_a_run_is_resized(going_on: Other) -> None:
    assert "3 sessions at once instead of 8" in crew(going_on.folder, "resize", going_on.run_id, "3").stdout
    assert crew_json(going_on.folder, "resize", "5")["reason"] == "5 sessions at once instead of 3"
    assert crew(going_on.folder, "resize", going_on.run_id, "many").exit_code == 2


def test_what_makes_no_sense_is_refused_with_what_would(going_on: Other) -> None:
    assert "turn, agent, tree" in crew(going_on.folder, "steer", "slow", "--stop", "all").stderr
    assert 'crew steer slow "TEXT"' in crew(going_on.folder, "steer", "slow").stderr
    assert (
        "one of the two"
        in crew(going_on.folder, "steer", "slow", "x", "--stop", "turn", "--follow-up").stderr
    )


def test_a_supervisor_that_died_is_named_with_the_way_to_go_on(tmp_path: Path) -> None:
    with supervising(tmp_path) as (run_id, process):
        process.kill()
        process.wait()
    dead = crew(tmp_path, "steer", run_id, "slow", "still there?")
    assert dead.exit_code == 2
    assert f"its supervisor (process {process.pid}) is gone" in str(dead.output)
    assert f"crew resume {run_id}" in dead.output


def test_the_help_suffices(tmp_path: Path) -> None:
    text = " ".join(crew(tmp_path, "steer", "--help").stdout.split())
    for word in ("[RUN]", "TASK", "TEXT", "--follow-up", "--stop", "turn|agent|tree", "woken", "--force"):
        assert word in text
