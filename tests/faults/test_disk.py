"""A detached run whose disk is full: in the middle of a commit, and of writing an artifact."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.cli.terminal import crew, document
from tests.cli.test_detached import detached
from tests.cli.test_takeover import LEASE, home_of
from tests.hosts.bub_chat import read_store
from tests.hosts.bub_terminal import scripted_model
from tests.screen import WAIT
from tests.store.fold import all_events, assert_events_tell_the_rows
from tests.store.test_faults import fill_up

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

LONG = "a report that becomes a file of its own " * 2000


@pytest.fixture
def small_state(tmp_path: Path) -> Iterator[Path]:
    """The state folder of a project, on a file system of its own of two megabytes."""
    folder = tmp_path / "project" / ".crew" / "state"
    folder.mkdir(parents=True)
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("only root on Linux can mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("summary", ["short", LONG], ids=["a commit", "an artifact"])
def test_a_run_whose_disk_was_full_goes_on_and_loses_nothing(
    tmp_path: Path, small_state: Path, summary: str
) -> None:
    ballast: list[Path] = []

    def script(conversation: Conversation) -> Reply:
        if not conversation.tool_results:
            return Reply(calls=(ToolUse(name="read", arguments={"path": "app.py"}),))
        held = not ballast
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": summary}),), held=held)

    with scripted_model(script) as model:
        home = home_of(tmp_path, model.base_url, looks="read")
        project = find_project(home.project)
        with detached(home, "--agent", "looks", "look") as said:
            until(lambda: len(model.asked) == 2)
            ballast.append(fill_up(small_state))
            before = read_store(project, all_events)
            model.release()
            until(lambda: not psutil.pid_exists(said["pid"]))
            assert read_store(project, all_events)[: len(before)] == before
            shown = document(crew(home, "status", "last", "--json"))["shown_state"]
            ballast.append(fill_up(small_state, "more"))  # its end may have given some room back
            refused = crew(home, "resume", "last", env=LEASE)
            for each in ballast:
                each.unlink()
        done = crew(home, "resume", "last", "--json", env=LEASE)
        read_store(project, assert_events_tell_the_rows)
        after = read_store(project, all_events)
    assert shown == "lost"
    assert refused.returncode == 1
    assert "free some space" in refused.stderr
    assert document(done)["state"] == "completed", done.stderr
    assert document(done)["tasks"][0]["result"]["summary"] == summary
    assert after[: len(before)] == before
    assert [event.type for event in after].count("task.completed") == 1
