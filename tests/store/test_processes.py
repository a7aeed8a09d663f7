"""Several processes on one store, and processes that die in the middle of it."""

import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crew_plugin.models.states import RunState
from crew_plugin.project import find_project
from crew_plugin.store.liveness import current_owner, owner_alive
from crew_plugin.store.sqlite import SqliteStore
from tests.store.fold import all_events, assert_events_tell_the_rows
from tests.store.processes import environment

BUSY = Path(__file__).with_name("busy_process.py")


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def none_outlives_its_test() -> Iterator[None]:
    """End what a failed test would leave."""
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.communicate()


def busy(action: str, folder: Path, runs: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(BUSY), action, str(folder), str(runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    _started.append(process)
    return process


def told(process: subprocess.Popen[str]) -> list[int]:
    """The event numbers that a process told, once it has ended well."""
    out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, "")
    return [int(line) for line in out.splitlines()]


def assert_sound(folder: Path) -> None:
    project = find_project(explicit=folder)
    database = sqlite3.connect(project.database)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()
    store = SqliteStore.open(project, read_only=True)
    assert_events_tell_the_rows(store)
    store.close()


@pytest.mark.parametrize("writers", [2, 4])
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, writers: int) -> None:
    processes = [busy("work", tmp_path, 6) for _ in range(writers)]
    acknowledged = [seq for process in processes for seq in told(process)]

    store = SqliteStore.open(find_project(explicit=tmp_path), read_only=True)
    assert sorted(acknowledged) == [event.seq for event in all_events(store)]
    assert {run.state for run in store.list_runs()} == {RunState.COMPLETED}
    assert len(store.list_runs()) == 6 * writers
    store.close()
    assert_sound(tmp_path)


def test_two_writing_and_three_watching_processes_see_one_story(tmp_path: Path) -> None:
    SqliteStore.open(find_project(explicit=tmp_path)).close()
    watchers = [busy("watch", tmp_path, 8) for _ in range(3)]
    writers = [busy("work", tmp_path, 4) for _ in range(2)]

    written = sorted(seq for writer in writers for seq in told(writer))

    assert [told(watcher) for watcher in watchers] == [written] * 3
    assert_sound(tmp_path)


def kill_rounds(folder: Path, rounds: int) -> None:
    """Kill two writers at a random moment of their work, again and again."""
    chance = random.Random(rounds)
    project = find_project(explicit=folder)
    for _ in range(rounds):
        processes = [busy("work", folder, 0) for _ in range(2)]
        acknowledged: list[int] = []
        for process in processes:
            assert process.stdout is not None
            lines = chance.randrange(1, 60)
            acknowledged += [int(process.stdout.readline()) for _ in range(lines)]
        for process in processes:
            process.kill()
        for process in processes:
            out, _ = process.communicate(timeout=30)
            acknowledged += [int(line) for line in out.splitlines()]

        store = SqliteStore.open(project)
        kept = {event.seq for event in all_events(store)}
        assert set(acknowledged) <= kept
        for run in store.list_runs(states=[RunState.QUEUED, RunState.RUNNING], limit=1000):
            assert run.owner is None or not owner_alive(run.owner)
            lease = store.claim(run.id, current_owner())
            store.transition_run(lease, RunState.FAILED, actor="test")
        store.close()
        assert_sound(folder)


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 6)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 150)


def test_processes_share_a_store_without_a_write_ahead_log(tmp_path: Path) -> None:
    project = find_project(explicit=tmp_path)
    project.state_dir.mkdir(parents=True)
    # What a file system without shared memory would show whoever makes the store.
    blocked = project.state_dir / f".probe-{os.getpid()}-{threading.get_ident()}.db-shm"
    blocked.mkdir()
    SqliteStore.open(project).close()
    watcher = busy("watch", tmp_path, 4)
    writers = [busy("work", tmp_path, 2) for _ in range(2)]

    written = sorted(seq for writer in writers for seq in told(writer))

    assert told(watcher) == written
    kill_rounds(tmp_path, 2)
    with closing(sqlite3.connect(project.database)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert_sound(tmp_path)
