"""Stores that released versions wrote, opened with today's code."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app
from crew_plugin.cli.table import COMMANDS
from crew_plugin.models.records import NewResult
from crew_plugin.models.states import AttemptState, RunState, TaskState
from crew_plugin.project import Project
from crew_plugin.store import schema
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore
from tests.hosts.bub_chat import team_script
from tests.hosts.bub_terminal import BubHome, run_bub, scripted_model
from tests.store.frozen_store import contents

FROZEN = Path(__file__).parent / "frozen"
VERSIONS = sorted(folder.name for folder in FROZEN.iterdir())

READING = [
    ("runs",),
    ("status", "last"),
    ("health", "last"),
    ("show", "last"),
    ("events", "last"),
    ("inbox",),
    ("respond",),
    ("deadletters",),
    ("mail", "last"),
    ("export", "last"),
]
WRITING = [
    ("cancel", "last"),
    ("steer", "last", "one", "hurry"),
    ("resize", "last", "2"),
    ("retry", "last"),
    ("resume", "last"),
    ("run", "--dry-run", "look"),
    ("forget", "last", "--yes"),
    ("prune", "--yes"),
    ("cleanup", "--yes"),
    ("deadletters", "requeue", "all"),
    ("deadletters", "drop", "all", "--yes"),
    ("import", "BUNDLE"),
    ("doctor",),
]
WITHOUT_A_STORE = {"agents", "teams", "workflows", "init", "demo"}
"""Commands that read files only, or that bring a project of their own."""


@pytest.fixture(params=VERSIONS)
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project whose state was written by a released version."""
    state = tmp_path / ".crew" / "state"
    shutil.copytree(FROZEN / request.param, state)
    return tmp_path


def project_of(folder: Path) -> Project:
    return Project(root=folder, state_dir=folder / ".crew" / "state")


def expected_in(folder: Path) -> Any:
    return json.loads((project_of(folder).state_dir / "expected.json").read_text(encoding="utf-8"))


def lost(before: Any, after: Any, where: str = "") -> list[str]:
    """What stood there before and does not any more; what was added does not count."""
    if isinstance(before, dict):
        return [
            miss
            for key, value in before.items()
            for miss in (lost(value, after[key], f"{where}/{key}") if key in after else [f"{where}/{key}"])
        ]
    if isinstance(before, list) and len(before) == len(after):
        return [
            miss
            for n, (old, new) in enumerate(zip(before, after, strict=True))
            for miss in lost(old, new, f"{where}/{n}")
        ]
    return [] if before == after else [f"{where}: {before!r} became {after!r}"]


def crew(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(build_app(), [*words, "--project", str(folder)])


def test_every_released_version_has_a_frozen_store() -> None:
    assert [f"v{n}" for n in range(1, schema.VERSION)] == VERSIONS


@pytest.mark.parametrize("read_only", [False, True])
def test_what_a_released_version_wrote_is_all_there(frozen: Path, read_only: bool) -> None:
    store = SqliteStore.open(project_of(frozen), read_only=read_only)
    now = contents(store)
    store.close()

    expected = expected_in(frozen)
    forgotten = expected.pop("forgotten", [])
    assert len(now["runs"]) == len(expected["runs"])
    assert lost(expected, now) == []
    for run_id in forgotten:
        told = crew(frozen, "status", run_id)
        assert told.exit_code == 2
        assert "was forgotten on" in told.stderr


def test_a_migrated_store_has_the_tables_of_a_new_one(frozen: Path, tmp_path: Path) -> None:
    def tables(folder: Path) -> list[tuple[str, str]]:
        SqliteStore.open(project_of(folder)).close()
        database = sqlite3.connect(project_of(folder).database)
        found = database.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        database.close()
        return found

    assert tables(frozen) == tables(tmp_path / "new")


def test_a_run_that_a_released_version_left_can_be_finished(frozen: Path) -> None:
    store = SqliteStore.open(project_of(frozen))
    run = store.load_run("last")
    newest = store.tail(None, limit=10_000)[-1].seq
    lease = store.claim(run.id, current_owner())
    (attempt,) = store.open_attempts(run.id)
    store.accept_result(lease, attempt.id, NewResult(summary="done"), actor="session")
    store.end_attempt(
        lease, attempt.id, AttemptState.COMPLETED, task_state=TaskState.COMPLETED, actor="supervisor"
    )

    ended = store.transition_run(lease, RunState.COMPLETED, actor="supervisor")

    assert ended.state is RunState.COMPLETED
    assert next(event.seq for event in store.tail(run.id, after_seq=newest)) == newest + 1
    store.close()


def test_an_operator_reads_a_store_of_a_released_version(frozen: Path) -> None:
    known = [run["record"]["id"] for run in expected_in(frozen)["runs"]]

    assert [row["id"] for row in json.loads(crew(frozen, "runs", "--json").stdout)["runs"]] == known[::-1]
    assert crew(frozen, "status", known[0]).exit_code == 0
    assert "a line of a long body" in crew(frozen, "show", known[0], "explore").stdout


def newer(folder: Path) -> Project:
    """A project whose store a newer crew-plugin wrote."""
    project = project_of(folder)
    SqliteStore.open(project).close()
    database = sqlite3.connect(project.database)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("PRAGMA user_version = 99")
    database.close()
    return project


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was exported elsewhere."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(FROZEN / VERSIONS[-1], folder / ".crew" / "state")
    assert crew(folder, "export", "last", "--out", str(folder / "x.zip")).exit_code == 0
    return folder / "x.zip"


@pytest.mark.parametrize("words", READING + WRITING, ids=" ".join)
def test_an_older_crew_refuses_a_newer_store_with_one_sentence(
    tmp_path: Path, words: tuple[str, ...], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = newer(tmp_path)
    before = project.database.read_bytes()
    shutil.copy(bundle, tmp_path / "BUNDLE")
    monkeypatch.chdir(tmp_path)

    done = crew(tmp_path, *words)

    assert done.exit_code == 1, done.output
    told = done.stdout if words == ("doctor",) else done.stderr
    (line,) = (line for line in told.splitlines() if "schema version 99" in line)
    assert "upgrade crew-plugin" in line
    if words != ("doctor",):
        assert (done.stdout, told.splitlines()) == ("", [line])
    assert project.database.read_bytes() == before


def test_every_command_that_has_to_do_with_a_store_is_tried_on_a_newer_one() -> None:
    tried = {words[0] for words in READING + WRITING}
    assert tried | WITHOUT_A_STORE == {command.name for command in COMMANDS}


@pytest.mark.parametrize("module", ["supervisor", "guardian"])
def test_a_detached_process_refuses_a_newer_store_with_one_sentence(tmp_path: Path, module: str) -> None:
    project = newer(tmp_path)
    words = [str(project.root), str(project.state_dir), "run_00000000000000"]

    done = subprocess.run(
        [sys.executable, "-m", f"crew_plugin.detached.{module}", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "has schema version 99" in line]
    assert len(lines) == (1 if module == "supervisor" else 2)


@pytest.mark.bub
@pytest.mark.timeout(120)
def test_a_host_works_on_beside_a_newer_store_and_says_what_to_do(tmp_path: Path) -> None:
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        newer(home.project)
        asked = run_bub(home, "run", "use an agent to look at MARKER-17")
        typed = run_bub(home, "run", ",team status")
        plain = run_bub(home, "run", "good morning")

    for done in (asked, typed):
        assert done.returncode == 0, done.stderr
        assert "has schema version 99, this crew-plugin knows up to" in done.stdout
        assert "ExceptionGroup" not in done.stderr
    assert "YOU SAID" in plain.stdout
    assert "Traceback" not in typed.stderr + plain.stderr
