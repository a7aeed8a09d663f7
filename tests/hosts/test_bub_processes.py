"""Two Bubs and three `crew` commands at work on one project at the same time."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_plugin.models.states import RunState, TaskState
from crew_plugin.project import find_project
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.testing.conversation import Conversation, Reply, Script, ToolUse
from tests.hosts.bub_chat import read_store, team_script
from tests.hosts.bub_terminal import BubHome, scripted_model

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

BIN = Path(sys.executable).parent
TASKS = 6
WAIT = 60.0


def _parallel(conversation: Conversation) -> Reply:
    """A parent that asks for six tasks named after what was said; the workers wait to be let go."""
    reply = team_script(conversation)
    if conversation.offered("submit_result"):
        return Reply(calls=reply.calls, held=not conversation.tool_results)
    if conversation.new_results:
        return reply
    name = "ONE" if "ONE" in conversation.last_user else "TWO"
    tasks = [{"agent": "explorer", "goal": f"look at {name}-{number}"} for number in range(TASKS)]
    return Reply(calls=(ToolUse(name="team", arguments={"action": "parallel", "tasks": tasks}),))


class _Watched:
    """A script that tells when so many of its replies are held at once."""

    def __init__(self, script: Script, count: int) -> None:
        self._script = script
        self._left = count
        self.all_held = threading.Event()

    def __call__(self, conversation: Conversation) -> Reply:
        reply = self._script(conversation)
        if reply.held:
            self._left -= 1
            if not self._left:
                self.all_held.set()
        return reply


@contextlib.contextmanager
def _started(home: BubHome, program: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [str(BIN / program), *arguments],
        cwd=home.project,
        env=home.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _end(process: "subprocess.Popen[str]") -> str:
    """What a process wrote until it ended well."""
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    return out


def test_two_bubs_and_three_commands_work_on_one_project_at_once(tmp_path: Path) -> None:
    script = _Watched(_parallel, 2 * TASKS)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(scripted_model(script))
        home = BubHome.make(tmp_path, model.base_url)

        def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
            return stack.enter_context(_started(home, program, *arguments))

        bubs = [start("bub", "run", f"do {name}") for name in ("ONE", "TWO")]
        while not script.all_held.wait(1):
            assert [_end(bub) for bub in bubs if bub.poll() is not None] == []
        project = find_project(home.project)
        ids = [run.id for run in read_store(project, lambda store: store.list_runs())]
        follower = start("crew", "events", ids[0], "--follow")
        lookers = [start("crew", "runs", "--json"), start("crew", "status", ids[1], "--json")]
        runs, status = (json.loads(_end(each)) for each in lookers)
        model.release()
        # And again beside the writing.
        lookers = [start("crew", "runs", "--json"), start("crew", "status", ids[1], "--json")]
        answers = [_end(each) for each in (*bubs, *lookers)]
        followed = _end(follower)

    assert {run["id"]: run["shown_state"] for run in runs["runs"]} == dict.fromkeys(ids, "running")
    assert len(ids) == 2
    assert [task["shown_state"] for task in status["tasks"]] == ["running"] * TASKS
    assert followed.splitlines()[-1].split()[-2:] == ["run", "completed"]
    for name, answer in zip(("ONE", "TWO"), answers[:2], strict=True):
        assert [number for number in range(TASKS) if f"look at {name}-{number}" not in answer] == []
    with contextlib.closing(SqliteStore(project.database, project.artifacts)) as store:
        for run_id in ids:
            assert store.load_run(run_id).state is RunState.COMPLETED
            assert [task.state for task in store.load_tasks(run_id)] == [TaskState.COMPLETED] * TASKS
            assert len({result.task_id for result in store.list_results(run_id)}) == TASKS
    with contextlib.closing(sqlite3.connect(project.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
