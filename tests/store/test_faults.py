"""What disks, folders, versions and damaged files do to a store, and what it says then."""

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from crew_plugin.errors import CrewError, StateDamaged, StateUnwritable, StoreTooNew
from crew_plugin.project import Project, find_project
from crew_plugin.store import schema
from crew_plugin.store.sqlite import SqliteStore
from tests.contracts.run_store import create, new_run
from tests.store.fold import assert_events_tell_the_rows
from tests.store.processes import environment


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return find_project(explicit=tmp_path)


def raw(project: Project) -> sqlite3.Connection:
    return sqlite3.connect(project.database, isolation_level=None)


def script(code: str, *arguments: str) -> None:
    """Run code in a process of its own, where limits and rights can be given up."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- versions ---


def test_a_store_of_a_newer_version_is_refused_untouched(project: Project) -> None:
    SqliteStore.open(project).close()
    database = raw(project)
    database.execute("PRAGMA user_version = 99")
    database.close()
    before = project.database.read_bytes()

    for read_only in (False, True):
        with pytest.raises(StoreTooNew, match=r"version 99.*upgrade crew-plugin"):
            SqliteStore.open(project, read_only=read_only)

    assert project.database.read_bytes() == before


def test_a_store_moves_forward_and_keeps_what_is_in_it(project: Project) -> None:
    store = SqliteStore.open(project)
    run = create(store)
    store.close()
    database = raw(project)
    later = (*schema.MIGRATIONS, "ALTER TABLE run ADD COLUMN colour TEXT;\nCREATE TABLE extra (x);\n")

    schema.migrate(database, project.database, later)
    schema.migrate(database, project.database, later)

    assert schema.version_of(database) == len(later)
    assert database.execute("SELECT id, colour FROM run").fetchall() == [(run.id, None)]
    database.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(project: Project) -> None:
    SqliteStore.open(project).close()
    database = raw(project)
    broken = (*schema.MIGRATIONS, "CREATE TABLE extra (x);\nCREATE TABLE run (y);\n")

    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(database, project.database, broken)

    assert schema.version_of(database) == schema.VERSION
    assert database.execute("SELECT name FROM sqlite_master WHERE name = 'extra'").fetchall() == []
    database.close()
    SqliteStore.open(project).close()


def test_an_empty_file_becomes_a_store_even_for_a_reader(project: Project) -> None:
    project.state_dir.mkdir(parents=True)
    project.database.touch()

    store = SqliteStore.open(project, read_only=True)

    assert store.list_runs() == []
    store.close()


# --- journal modes ---


def test_a_store_uses_a_write_ahead_log_and_writes_through(project: Project) -> None:
    SqliteStore.open(project).close()
    database = raw(project)

    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()
    assert sorted(os.listdir(project.state_dir)) == [".gitignore", "crew.db"]


def test_without_shared_memory_the_store_works_with_a_rollback_journal(project: Project) -> None:
    project.state_dir.mkdir(parents=True)
    # The probe finds what a file system without shared memory would show it.
    blocked = project.state_dir / f".probe-{os.getpid()}-{threading.get_ident()}.db-shm"
    blocked.mkdir()

    store = SqliteStore.open(project)
    other = SqliteStore.open(project)
    reader = SqliteStore.open(project, read_only=True)
    ids = {create(store).id, create(other).id}

    assert {run.id for run in reader.list_runs()} == ids
    database = raw(project)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database.close()
    for each in (store, other, reader):
        each.close()


# --- rights ---

# What Python imports late must be there before: nobody may not read the folders of root's Python.
AS_NOBODY = """
import os, sys, urllib.parse
from crew_plugin.errors import StateUnwritable
from crew_plugin.project import find_project
from crew_plugin.store.sqlite import SqliteStore
from tests.contracts.run_store import create
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
project = find_project(explicit=sys.argv[1])
try:
    store = SqliteStore.open(project)
    create(store)
except StateUnwritable as error:
    assert "--state-dir" in str(error), error
else:
    raise SystemExit("it was written")
reader = SqliteStore.open(project, read_only=True)
assert len(reader.list_runs()) == int(sys.argv[2])
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for each in (folder, *folder.rglob("*")):
            each.chmod(0o755)


def forbid(folder: Path) -> None:
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o555 if stat.S_ISDIR(each.stat().st_mode) else 0o444)


@pytest.mark.skipif(os.name == "nt", reason="rights are another thing there")
def test_a_folder_that_cannot_be_written_is_one_clear_error(open_folder: Path) -> None:
    forbid(open_folder)

    script(AS_NOBODY, str(open_folder), "0")


@pytest.mark.skipif(os.name == "nt", reason="rights are another thing there")
def test_a_store_that_cannot_be_written_can_still_be_read(open_folder: Path) -> None:
    store = SqliteStore.open(find_project(explicit=open_folder))
    create(store)
    store.close()
    forbid(open_folder)

    script(AS_NOBODY, str(open_folder), "1")


# --- full disks ---

WITH_A_LIMIT = """
import resource, sys
from crew_plugin.errors import StateUnwritable
from crew_plugin.models.records import NewEvent
from crew_plugin.project import find_project
from crew_plugin.store.sqlite import SqliteStore
from tests.contracts.run_store import create
from tests.store.fold import assert_events_tell_the_rows

store = SqliteStore.open(find_project(explicit=sys.argv[1]))
run = create(store)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
try:
    store.put_artifact(run.id, "big", b"x" * 300_000)
except StateUnwritable:
    pass
else:
    raise SystemExit("the artifact was written")
kept = 0
try:
    while True:
        note = NewEvent(type="session.note", actor="x", data={"text": "y" * 2000})
        store.append_events(None, run.id, [note])
        kept += 1
except StateUnwritable as error:
    assert "free some space" in str(error), error
assert store.load_run("last").id == run.id
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
ref = store.put_artifact(run.id, "big", b"x" * 300_000)
assert len(store.read_artifact(ref.sha256)) == 300_000
assert [event.type for event in store.tail(run.id)].count("session.note") == kept
assert_events_tell_the_rows(store)
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no such limits there")
def test_a_file_that_may_not_grow_loses_nothing_and_the_store_goes_on(tmp_path: Path) -> None:
    script(WITH_A_LIMIT, str(tmp_path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("only root on Linux can mount")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(folder: Path, name: str = "ballast") -> Path:
    """Leave no room in a folder. Returns the file to remove to make room again."""
    ballast = folder / name
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


def test_a_full_disk_loses_nothing_and_the_store_goes_on(small_disk: Path) -> None:
    store = SqliteStore.open(find_project(explicit=small_disk))
    run = create(store)
    ballast = fill_up(small_disk)
    before = store.tail(None)

    def fill() -> None:
        while True:
            store.create_run(new_run(goal="x" * 2000), [], actor="cli")

    with pytest.raises(StateUnwritable, match="free some space"):
        store.put_artifact(run.id, "log", b"x" * 5000)
    with pytest.raises(StateUnwritable, match="free some space"):
        fill()

    assert store.tail(None)[: len(before)] == before
    ballast.unlink()
    store.put_artifact(run.id, "log", b"x" * 5000)
    create(store)
    assert_events_tell_the_rows(store)
    store.close()


def test_a_full_disk_at_the_first_use_is_one_clear_error(small_disk: Path) -> None:
    fill_up(small_disk)

    with pytest.raises(StateUnwritable):
        create(SqliteStore.open(find_project(explicit=small_disk)))


# --- damage ---


def garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database, it only stands where one should be" * 100)


def beginning_of_a_store(path: Path) -> None:
    whole = path.with_name("whole.db")
    with closing(sqlite3.connect(whole)) as other:
        other.execute("CREATE TABLE run (id TEXT PRIMARY KEY, goal TEXT NOT NULL)")
        other.commit()
    path.write_bytes(whole.read_bytes()[:100])


def database_of_something_else(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE run (x)")
        other.commit()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (garbage, "it is not a store"),
        (beginning_of_a_store, "it is damaged"),
        (database_of_something_else, "it is a database of something else"),
        (Path.mkdir, "it is a folder"),
    ],
)
def test_a_file_that_is_no_store_is_one_clear_error_and_is_left_as_it_is(
    project: Project, spoil: Callable[[Path], None], said: str
) -> None:
    project.state_dir.mkdir(parents=True)
    spoil(project.database)
    before = project.database.read_bytes() if project.database.is_file() else b""

    for read_only in (False, True):
        with pytest.raises(StateDamaged, match=said) as caught:
            SqliteStore.open(project, read_only=read_only)
        assert "move it away" in str(caught.value)
        assert "free some space" not in str(caught.value)
    assert (project.database.read_bytes() if project.database.is_file() else b"") == before


def test_a_file_where_the_state_folder_should_be_is_named(project: Project) -> None:
    project.state_dir.parent.mkdir(parents=True, exist_ok=True)
    project.state_dir.write_text("mine")
    with pytest.raises(StateUnwritable, match="a file is in its place"):
        SqliteStore.open(project)
    assert project.state_dir.read_text() == "mine"


LONG = b"the truth" * 4000


@pytest.mark.parametrize("body", [b"the truth", LONG], ids=["inside the store", "a file"])
def test_a_damaged_body_is_not_handed_out(project: Project, body: bytes) -> None:
    store = SqliteStore.open(project)
    ref = store.put_artifact(create(store).id, "log", body)
    for path in project.artifacts.rglob("*"):
        if path.is_file():
            path.write_bytes(b"a lie, no")
    with closing(sqlite3.connect(project.database)) as other:
        other.execute("UPDATE body SET content = ?", (b"a lie, no",))
        other.commit()

    with pytest.raises(CrewError, match="damaged"):
        store.read_artifact(ref.sha256)
    store.close()


def test_a_missing_body_is_not_an_unknown_one(project: Project) -> None:
    store = SqliteStore.open(project)
    ref = store.put_artifact(create(store).id, "log", LONG)
    (path,) = (path for path in project.artifacts.rglob("*") if path.is_file())
    path.unlink()

    with pytest.raises(CrewError, match="its file is missing"):
        store.read_artifact(ref.sha256)
    assert store.put_artifact(ref.run_id or "", "log", LONG) == ref
    assert store.read_artifact(ref.sha256) == LONG
    store.close()


def test_bodies_leave_nothing_else_behind(project: Project) -> None:
    store = SqliteStore.open(project)
    run = create(store)
    for _ in range(3):
        store.put_artifact(run.id, "log", LONG)
    store.close()

    files = [path for path in project.artifacts.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].name.startswith(files[0].parent.name)
