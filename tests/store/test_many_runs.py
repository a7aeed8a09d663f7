"""Ten thousand runs in a store: what people and hosts look at often is found without reading them."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crew_hooks.bub.guard import active_runs, roster
from crew_plugin.cli.app import build_app
from crew_plugin.models.records import NewResult, ParentRef
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.store.port import RunStore
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.ui.views import run_rows
from tests.ui.runs import DEAD, open_book, project_in

pytestmark = pytest.mark.bub

PARENT = ParentRef(host="bub", session="cli:local", route={"channel": "cli"})
"""All runs of a terminal's chat have the same parent."""
MANY = 10_000
_IDS = {"id", "run_id", "task_id", "attempt_id", "session_id", "result_id"}
TABLES = ("run", "task", "attempt", "session", "result", "outbox", "event", "artifact")
WORK = 50
"""Instructions of SQLite's machine that are one unit of work."""
MOST = 600
"""Units that a look may take, however many runs there are: one that reads them all takes hundreds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one ended run of a chat, copied ten thousand times, and one that goes on."""
    place = tmp_path_factory.mktemp("many")
    with closing(SqliteStore.open(project_in(place))) as store:
        book = open_book(store, parent=PARENT, background=True)
        for task in store.load_tasks(book.run.id):
            book.finish(book.start(task.key), NewResult(summary="done"))
        book.end(RunState.COMPLETED, None)
        store.acknowledge([row.id for row in store.list_deliveries()], actor="host")
    with closing(sqlite3.connect(project_in(place).database)) as database:
        for table in TABLES:
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            copied = ", ".join(_copied(column) for column in columns)
            database.execute(
                f"WITH RECURSIVE copy (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM copy WHERE i < {MANY})"
                f" INSERT INTO {table} ({', '.join(columns)}) SELECT {copied} FROM {table}, copy"
            )
        database.commit()
    with closing(SqliteStore.open(project_in(place))) as store:
        open_book(store, parent=PARENT)
    return place


def _copied(column: str) -> str:
    if column in ("n", "seq"):
        return f"{column} + 1000 * copy.i"
    return f"{column} || copy.i" if column in _IDS else column


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts what SQLite does in all connections that are opened from now on."""
    done = [0]
    connect = sqlite3.connect

    def counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)

        def tick() -> int:
            done[0] += 1
            return 0

        connection.set_progress_handler(tick, WORK)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counting)
    return lambda: done[0]


@pytest.mark.parametrize(
    "words",
    [
        ("runs",),
        ("status",),
        ("status", "last"),
        ("show", "last"),
        ("health",),
        ("inbox",),
        ("inbox", "--all"),
    ],
    ids=" ".join,
)
def test_a_command_reads_no_more_than_it_shows(
    folder: Path, work: Callable[[], int], words: tuple[str, ...]
) -> None:
    done = CliRunner().invoke(build_app(), [*words, "--project", str(folder)])
    assert done.exit_code == 0, done.output
    assert 0 < work() < MOST, done.output


def test_the_end_of_an_id_finds_its_run_without_reading_runs(folder: Path, work: Callable[[], int]) -> None:
    with closing(SqliteStore.open(project_in(folder), read_only=True)) as store:
        oldest = store.list_runs(limit=100_000)[-1].id
    before = work()
    done = CliRunner().invoke(build_app(), ["status", oldest[-10:], "--project", str(folder)])
    assert "completed" in done.output
    assert work() - before < 6 * MOST, "the ids alone are looked through"


def _looked_over(store: RunStore) -> object:
    active = tuple(state for state in RunState if state not in RUN_TERMINAL)
    return store.list_runs(states=active, limit=200)


@pytest.mark.parametrize(
    "look",
    [
        lambda store: roster(store, PARENT, lambda _: True),
        lambda store: run_rows(store, states=(RunState.FAILED, RunState.COMPLETED), limit=20),
        lambda store: run_rows(store, parent=PARENT, limit=20),
        lambda store: store.list_started(store.load_run("last").id),
        lambda store: store.list_questions(only_open=True),
        _looked_over,
    ],
    ids=[
        "a model call of the chat",
        "ended runs",
        "a chat's runs",
        "runs of a run",
        "questions",
        "lost runs",
    ],
)
def test_a_host_reads_no_more_than_it_needs(
    folder: Path, work: Callable[[], int], look: Callable[[RunStore], object]
) -> None:
    with closing(SqliteStore.open(project_in(folder), read_only=True)) as store:
        before = work()
        look(store)
        assert work() - before < MOST


def test_a_run_that_goes_on_is_found_behind_many_that_were_lost(tmp_path: Path) -> None:
    with closing(SqliteStore.open(project_in(tmp_path))) as store:
        alive = open_book(store, parent=PARENT).run.id
        for _ in range(60):
            open_book(store, parent=PARENT, owner=DEAD)
        assert active_runs(store, PARENT) == (alive,)
