"""A wall clock that jumps by hours, back and forth, in the processes of a run."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crew_plugin.models.records import RunRecord
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from tests.cli.terminal import crew, document
from tests.cli.test_questions import Asking, summary
from tests.cli.test_takeover import LEASE, events, home_of, started, until
from tests.hosts.bub_chat import read_store
from tests.hosts.bub_terminal import BubHome, scripted_model
from tests.screen import WAIT

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

HOURS = 5 * 3600.0
AGES = ("elapsed", "idle_seconds", "doing_seconds")
RENEWALS = 8
"""More than there are in the time of a lease."""
SHIFTING = """
import os, time
_time, _time_ns = time.time, time.time_ns
def _offset():
    try:
        with open(os.environ["SHIFT_FILE"]) as file:
            return float(file.read() or 0)
    except (OSError, KeyError):
        return 0.0
time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
"""


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall clock of all processes with this environment."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        place = os.pathsep.join([str(self.folder), BubHome.make(self.folder, None).env["PYTHONPATH"]])
        return {"PYTHONPATH": place, "SHIFT_FILE": str(self.folder / "shift"), **LEASE}

    def jump(self, seconds: float) -> None:
        """Set it ahead by so much, or back."""
        new = self.folder / "shift.new"
        new.write_text(str(seconds), encoding="utf-8")
        new.replace(self.folder / "shift")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    folder = tmp_path / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SHIFTING, encoding="utf-8")
    return Clock(folder)


def newest(home: BubHome) -> RunRecord:
    return read_store(find_project(home.project), lambda store: store.list_runs()[0])


def renewed(home: BubHome) -> None:
    """Wait for more than a lease of its supervisor's work."""
    before, deadline = newest(home).renewals, time.monotonic() + WAIT
    while newest(home).renewals < before + RENEWALS:
        assert time.monotonic() < deadline, "the lease was not renewed"
        time.sleep(0.05)


def ages(value: Any) -> list[float]:
    """Everything in a document that says for how long."""
    if isinstance(value, list):
        return [age for each in value for age in ages(each)]
    if not isinstance(value, dict):
        return []
    own = [float(each) for key, each in value.items() if key in AGES and each is not None]
    return own + ages(list(value.values()))


def everything_holds(home: BubHome, clock: Clock) -> None:
    """The question is open, the lease is held, and nothing is older or younger than it can be."""
    renewed(home)
    run = document(crew(home, "status", "last", "--json", env=clock.env))
    assert (run["shown_state"], [task["state"] for task in run["tasks"]]) == ("running", ["waiting"])
    assert [question["state"] for question in run["questions"]] == ["open"]
    for command in (("status", "last"), ("runs",), ("health",), ("inbox",)):
        assert min(ages(document(crew(home, *command, "--json", env=clock.env))), default=0.0) >= 0.0
        assert " -" not in crew(home, *command, env=clock.env).stdout
    refused = crew(home, "resume", "last", env=clock.env)
    assert refused.returncode != 0
    assert f"process {newest(home).owner.pid}" in refused.stderr  # type: ignore[union-attr]  # it has one


def test_no_lease_and_no_question_is_lost_when_the_clock_jumps(tmp_path: Path, clock: Clock) -> None:
    with scripted_model(Asking()) as server:
        home = home_of(tmp_path, server.base_url, asks="read")
        with started(home, "--agent", "asks", "choose", env=clock.env) as process:
            until(home, "task.waiting")
            for jump in (HOURS, -HOURS):
                clock.jump(jump)
                everything_holds(home, clock)
            clock.jump(0)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(WAIT)
        with started(home, "last", command=("resume",), env=clock.env) as process:
            until_claimed_again(home)
            for jump in (HOURS, -HOURS):
                clock.jump(jump)
                everything_holds(home, clock)
            assert crew(home, "respond", "last", "9090", env=clock.env).returncode == 0
            assert process.wait(WAIT) == 0
    assert summary(home) == "The answer (operator): 9090"
    assert "question.expired" not in {event["type"] for event in events(home)}


def until_claimed_again(home: BubHome) -> None:
    deadline = time.monotonic() + WAIT
    while sum(event["type"] == "run.claimed" for event in events(home)) < 2:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("jump", [pytest.param(HOURS, marks=pytest.mark.long), -HOURS], ids=["ahead", "back"])
def test_a_pause_before_the_next_attempt_is_as_long_as_it_is(
    tmp_path: Path, clock: Clock, jump: float
) -> None:
    jumped: list[Callable[[], None]] = [lambda: clock.jump(jump)]

    def script(conversation: Conversation) -> Reply:
        if jumped:
            jumped.pop()()
            return Reply(fault=Fault.SERVER_ERROR)
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "at last"}),))

    with scripted_model(script) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        once = {**clock.env, "CREW_LIMITS__MODEL_RETRIES": "0"}
        done = crew(home, "run", "--agent", "looks", "look", "--json", env=once)
    assert document(done)["state"] == "completed", done.stderr
    assert document(done)["tasks"][0]["attempts"] == 2
    assert min(ages(document(done)), default=0.0) >= 0.0
