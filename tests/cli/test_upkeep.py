"""`forget`, `prune` and `cleanup` on stores that were written before."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app
from crew_plugin.engine.orphans import OWNER_VARIABLE, owner_mark
from crew_plugin.errors import Forgotten, NotAllowed
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.records import NewResult, Owner, ParentRef, TranscriptEntry
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore
from tests.ui.runs import DEAD, Book, open_book, play, project_in

LONG = "a line that both runs have\n" * 2000
CAUSE = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
PARENT = ParentRef(host="bub", session="chat", route={})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(project_in(tmp_path))
    yield opened
    opened.close()


def ended(store: SqliteStore, own: str, *, parent: ParentRef | None = None) -> Book:
    """A run that used every table, with one long body of its own and one that all share."""
    book = open_book(store, parent=parent)
    play(book)
    code = book.store.load_task(book.run.id, "code")
    entry = TranscriptEntry(seq=0, role="tool", content=own * 20_000, data={})
    book.talk(code.attempt_id or "", entry)
    store.add_section(book.lease, code.attempt_id or "", "part", {"n": 1}, adds=False, actor="session")
    store.send_message(book.run.id, sender="operator", recipient="code", kind=MessageKind.STEER, body="hi")
    book.finish(code.attempt_id or "", NewResult(summary="done", artifacts={"log": LONG}))
    verify = store.load_task(book.run.id, "verify")
    store.transition_task(book.lease, verify.id, TaskState.SKIPPED, actor="supervisor", cause=CAUSE)
    book.end(RunState.FAILED, CAUSE)
    return book


def crew(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(build_app(), [*words, "--project", str(folder)])


def rows(store: SqliteStore) -> int:
    """Rows of runs, in all tables."""
    names = "event control message question outbox section tool_call transcript session result attempt"
    return sum(
        store._one(f"SELECT count(*) FROM {name}")[0]  # pyright: ignore[reportPrivateUsage] - looks inside
        for name in [*names.split(), "artifact", "task", "run"]
    )


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / ".crew/state/artifacts").rglob("*") if path.is_file()]


def test_a_forgotten_run_leaves_nothing_but_a_tombstone(tmp_path: Path, store: SqliteStore) -> None:
    book = ended(store, "x")
    log = project_in(tmp_path).log_of(book.run.id)
    log.parent.mkdir()
    log.write_text("said", encoding="utf-8")
    assert files(tmp_path)

    done = crew(tmp_path, "forget", "last", "--yes", "--intent", "had a secret")

    assert done.exit_code == 0, done.output
    assert (rows(store), files(tmp_path), log.exists()) == (0, [], False)
    told = crew(tmp_path, "status", book.run.id)
    assert told.exit_code == 2
    assert "ended failed and was forgotten on" in told.stderr
    assert "by operator (had a secret): 4 tasks, 2 results" in told.stderr


def test_what_another_run_refers_to_stays_when_a_run_is_forgotten(tmp_path: Path, store: SqliteStore) -> None:
    gone, kept = ended(store, "x"), ended(store, "y")
    before, bodies = rows(store), len(files(tmp_path))

    document = json.loads(crew(tmp_path, "forget", gone.run.id, "--yes", "--json").stdout)

    assert document["forgotten"]["run_id"] == gone.run.id
    assert document["freed_bytes"] >= 20_000
    assert rows(store) == before / 2
    assert len(files(tmp_path)) == bodies - 1  # the others are in both runs
    assert all(store.read_artifact(ref.sha256) for ref in store.list_artifacts(kept.run.id))
    code = store.load_task(kept.run.id, "code").attempt_id or ""
    assert store.read_transcript(store.load_attempt(code).session_id)[-1].content == "y" * 20_000


def test_a_late_writer_of_a_forgotten_run_is_told_and_writes_nothing(store: SqliteStore) -> None:
    book = ended(store, "x")
    attempt = store.load_task(book.run.id, "code").attempt_id or ""
    store.forget_run(book.run.id, actor="operator", reason="")

    with pytest.raises(Forgotten, match="was forgotten"):
        book.call(attempt, "read", "{}")
    with pytest.raises(Forgotten, match="was forgotten"):
        store.put_artifact(book.run.id, "late", b"late")
    with pytest.raises(Forgotten, match="was forgotten"):
        store.send_message(book.run.id, sender="a", recipient="b", kind=MessageKind.STEER, body="late")

    assert rows(store) == 0


def test_numbers_of_forgotten_events_are_not_given_again(store: SqliteStore) -> None:
    book = ended(store, "x")
    newest = store.tail(book.run.id, limit=10_000)[-1].seq
    store.forget_run(book.run.id, actor="operator", reason="")

    open_book(store)

    assert store.tail(None, after_seq=newest)[0].seq == newest + 1


def test_a_run_that_has_not_ended_is_never_forgotten(tmp_path: Path, store: SqliteStore) -> None:
    book = open_book(store)
    before = rows(store)

    done = crew(tmp_path, "forget", book.run.id, "--yes", "--force")

    assert done.exit_code == 2
    assert "is running: only an ended run can be forgotten; cancel it first" in done.stderr
    with pytest.raises(NotAllowed, match="is running"):
        store.forget_run(book.run.id, actor="operator", reason="", undelivered=True)
    assert rows(store) == before


def test_nothing_is_forgotten_or_pruned_without_confirmation(tmp_path: Path, store: SqliteStore) -> None:
    ended(store, "x")
    before = rows(store)

    for words in (("forget", "last"), ("prune", "--keep", "0")):
        done = crew(tmp_path, *words)
        assert done.exit_code == 2
        assert "this would delete run" in done.stderr
        assert "say --yes" in done.stderr

    assert rows(store) == before


def test_results_that_nobody_got_are_deleted_by_force_only(tmp_path: Path, store: SqliteStore) -> None:
    book = ended(store, "x", parent=PARENT)
    store.owe_results(book.lease)
    assert store.list_deliveries(run_id=book.run.id)

    refused = crew(tmp_path, "forget", "last", "--yes")
    with pytest.raises(NotAllowed, match="has not got; say force"):
        store.forget_run(book.run.id, actor="operator", reason="")
    pruned = crew(tmp_path, "prune", "--keep", "0", "--yes")

    assert (refused.exit_code, pruned.exit_code) == (2, 0)
    assert "say force" in refused.stderr
    assert store.load_run("last").id == book.run.id
    assert crew(tmp_path, "forget", "last", "--yes", "--force").exit_code == 0
    assert rows(store) == 0


def test_pruning_keeps_the_newest_and_what_goes_on(tmp_path: Path, store: SqliteStore) -> None:
    first, second, third = (ended(store, letter).run.id for letter in "xyz")
    going_on = open_book(store).run.id

    dry = json.loads(crew(tmp_path, "prune", "--keep", "1", "--dry-run", "--json").stdout)
    assert dry["would_forget"] == [first, second]
    assert len(store.list_runs()) == 4

    done = crew(tmp_path, "prune", "--keep", "1", "--yes")

    assert done.exit_code == 0, done.output
    assert [run.id for run in store.list_runs()] == [going_on, third]
    assert crew(tmp_path, "prune", "--keep", "1").stdout.startswith("no ended run")


def test_the_settings_say_how_long_runs_are_kept(tmp_path: Path, store: SqliteStore) -> None:
    ended(store, "x")
    assert json.loads(crew(tmp_path, "prune", "--dry-run", "--json").stdout)["would_forget"] == []
    assert (
        len(json.loads(crew(tmp_path, "prune", "--days", "0", "--dry-run", "--json").stdout)["would_forget"])
        == 1
    )


def test_bodies_that_a_crash_left_behind_are_swept_by_a_prune(tmp_path: Path, store: SqliteStore) -> None:
    ended(store, "z")
    bodies = set(files(tmp_path))
    store.forget_run(ended(store, "x").run.id, actor="operator", reason="")  # and no sweep: it died here
    assert len(files(tmp_path)) == len(bodies) + 1
    half = files(tmp_path)[0].parent / ".0123456789abcdef-1-aa"
    half.write_bytes(b"half")
    newest = ended(store, "z")

    assert crew(tmp_path, "prune", "--keep", "1", "--yes").exit_code == 0

    assert [run.id for run in store.list_runs()] == [newest.run.id]
    assert set(files(tmp_path)) == bodies


KEEPS = """from crew_plugin.hookspecs import Verdict, hookimpl


@hookimpl
def before_forget(event):
    return Verdict(allow=event.actor != "operator", reason=f"{event.run_id} is evidence")


@hookimpl
def before_cleanup(event):
    return Verdict(allow=False, reason="not now")


@hookimpl
def before_publish(event):
    return Verdict(allow=False, reason=f"{event.file} leaves the house")
"""


def test_hooks_of_a_trusted_project_keep_what_was_to_be_deleted_or_exported(
    tmp_path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ended(store, "x").run
    path = log(tmp_path, run.id)
    (tmp_path / ".crew" / "hooks").mkdir()
    (tmp_path / ".crew" / "hooks" / "keeps.py").write_text(KEEPS, encoding="utf-8")
    target = tmp_path / "run.zip"
    config = tmp_path / "config" / "crew-plugin" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f"trusted_projects = [{str(tmp_path.resolve())!r}]\n", encoding="utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    forgotten = crew(tmp_path, "forget", run.id, "--yes")
    pruned = crew(tmp_path, "prune", "--keep", "0", "--yes")
    cleaned = crew(tmp_path, "cleanup", run.id, "--yes")
    exported = crew(tmp_path, "export", run.id, "--out", str(target))

    assert [each.exit_code for each in (forgotten, pruned, cleaned, exported)] == [2, 0, 2, 2]
    assert f"a hook refused it: {run.id} is evidence" in forgotten.stderr
    assert f"run {run.id} stays: a hook refused it" in pruned.stdout
    assert "a hook refused it: not now" in cleaned.stderr
    assert "run.zip leaves the house" in exported.stderr
    assert (path.exists(), target.exists()) == (True, False)
    called = [event for event in store.tail(run.id) if event.type == "hook.executed"]
    assert [event.data["hook"] for event in called] == ["before_forget"] * 2

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    assert crew(tmp_path, "forget", run.id, "--yes").exit_code == 0


# --- cleanup -------------------------------------------------------------------------------------


@contextmanager
def left_running(run_id: str, supervisor: Owner = DEAD) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a session of this run, whose supervisor is gone."""
    mark = {OWNER_VARIABLE: owner_mark(supervisor), "CREW_RUN": run_id, "CREW_SESSION": "s"}
    command = [sys.executable, "-c", "import sys, time; print(1, flush=True); time.sleep(600)"]
    with subprocess.Popen(command, env={**os.environ, **mark}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def log(folder: Path, run_id: str) -> Path:
    path = project_in(folder).log_of(run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("said", encoding="utf-8")
    return path


def test_what_nothing_owns_is_listed_then_removed_and_written_down(
    tmp_path: Path, store: SqliteStore
) -> None:
    over, going_on = ended(store, "x"), open_book(store)
    logs = [log(tmp_path, name) for name in (over.run.id, "run_00000000forgot", going_on.run.id)]
    gone = ended(store, "y")
    store.forget_run(gone.run.id, actor="operator", reason="")  # and no sweep: it died here
    half = files(tmp_path)[0].parent / ".0123456789abcdef-1-aa"
    half.write_bytes(b"half")
    bodies = len(files(tmp_path))

    dry = crew(tmp_path, "cleanup", "--dry-run")
    would = json.loads(crew(tmp_path, "cleanup", "--dry-run", "--json").stdout)["would_remove"]
    refused = crew(tmp_path, "cleanup")

    assert dry.exit_code == 0, dry.output
    assert f"log {over.run.id}.log" in dry.stdout
    assert set(would["logs"]) == {path.name for path in logs[:2]}
    assert would["bodies"] == 2
    assert refused.exit_code == 2
    assert "say --yes" in refused.stderr
    assert (len(files(tmp_path)), all(path.exists() for path in logs)) == (bodies, True)

    done = crew(tmp_path, "cleanup", "--yes", "--intent", "the disk is full", "--json")

    removed = json.loads(done.stdout)["removed"]
    # What other projects of this user left running is found and ended too.
    assert [removed[what] for what in ("logs", "bodies")] == [would[what] for what in ("logs", "bodies")]
    assert [path.exists() for path in logs] == [False, False, True]
    assert len(files(tmp_path)) == bodies - 2
    assert all(store.read_artifact(ref.sha256) for ref in store.list_artifacts(over.run.id))
    (noted,) = store.list_upkeep(limit=5)
    assert (noted.actor, noted.reason, noted.done["logs"]) == ("operator", "the disk is full", would["logs"])
    assert "last cleanup" in crew(tmp_path, "doctor").stdout
    left = json.loads(crew(tmp_path, "cleanup", "--dry-run", "--json").stdout)["would_remove"]
    assert (left["logs"], left["bodies"]) == ([], 0)


def test_a_process_of_a_dead_supervisor_is_ended(tmp_path: Path, store: SqliteStore) -> None:
    run = ended(store, "x").run
    for _ in range(5):
        with left_running(run.id) as orphan, left_running(run.id, current_owner()) as owned:
            listed = crew(tmp_path, "cleanup", run.id, "--dry-run", "--json").stdout
            done = crew(tmp_path, "cleanup", run.id, "--yes")
            ended_by_it = f"process {orphan.pid}" in done.stdout
            assert orphan.wait(5) != 0
            assert owned.poll() is None
            assert str(owned.pid) not in done.stdout
        if ended_by_it:
            break
        # Any crew that starts on this machine meanwhile ends it first.
    else:
        pytest.fail("it was never this command that ended it")
    would = json.loads(listed)["would_remove"]
    assert [process["pid"] for process in would["processes"]] == [orphan.pid]
    assert [each["pid"] for each in store.list_upkeep(limit=1)[0].done["processes"]] == [orphan.pid]


def test_nothing_of_a_run_that_goes_on_or_is_somebody_elses_is_cleaned_up(
    tmp_path: Path, store: SqliteStore
) -> None:
    going_on, foreign = open_book(store), ended(store, "x", parent=PARENT)
    logs = [log(tmp_path, book.run.id) for book in (going_on, foreign)]

    live = crew(tmp_path, "cleanup", going_on.run.id, "--yes", "--force")
    other = crew(tmp_path, "cleanup", foreign.run.id, "--yes")

    assert (live.exit_code, other.exit_code) == (2, 2)
    assert "is running: nothing of it is removed before it has ended; cancel it first" in live.stderr
    assert "belongs to the session chat; say force to remove it all the same" in other.stderr
    assert [path.exists() for path in logs] == [True, True]
    assert store.list_upkeep(limit=1) == []
    assert crew(tmp_path, "cleanup", foreign.run.id, "--yes", "--force").exit_code == 0
    assert [path.exists() for path in logs] == [True, False]


def test_an_intent_is_needed_for_a_cleanup_where_the_settings_say_so(
    tmp_path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREW_SAFETY__INTENT", "true")
    path = log(tmp_path, ended(store, "x").run.id)

    refused = crew(tmp_path, "cleanup", "--yes")

    assert refused.exit_code == 2
    assert 'say --intent "WHY"' in refused.stderr
    assert path.exists()
    assert crew(tmp_path, "cleanup", "--yes", "--intent", "tidy").exit_code == 0


def test_pruning_drops_details_of_old_runs_and_keeps_their_results(
    tmp_path: Path, store: SqliteStore
) -> None:
    book = ended(store, "x")
    store.put_artifact(book.run.id, "code/log.txt", (LONG + "more").encode(), log=True)
    log = store.list_artifacts(book.run.id)[-1]
    listed = crew(tmp_path, "prune", "--details", "0", "--dry-run")
    assert f"{book.run.id}  details only: details are kept for 0 days" in listed.stdout
    assert store.read_artifact(log.sha256)

    done = json.loads(crew(tmp_path, "prune", "--details", "0", "--yes", "--json").stdout)

    assert [each["run_id"] for each in done["thinned"]] == [book.run.id]
    assert done["freed_bytes"] > len(LONG)
    told = crew(tmp_path, "show", "last", "--artifact", log.sha256)
    assert (told.exit_code, told.stdout[:9]) == (0, "artifact ")
    assert "removed by policy on" in told.stdout
    assert "because details are kept for 0 days" in told.stdout
    shown = json.loads(crew(tmp_path, "show", "last", "code", "--json").stdout)
    assert "done" in json.dumps(shown)
    assert "removed by policy" in crew(tmp_path, "show", "last", "code", "--prompt").stdout
    again = json.loads(crew(tmp_path, "prune", "--details", "0", "--yes", "--json").stdout)
    assert again["thinned"] == []
