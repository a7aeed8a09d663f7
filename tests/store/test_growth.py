"""What a store keeps and what it lets go: chatty events, bodies, secrets, links."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from crew_plugin.errors import BodyRemoved, CrewError, Forgotten, NotAllowed, StateUnwritable
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import Effect, EventRecord, NewEvent, NewResult, TranscriptEntry
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.project import Project
from crew_plugin.store.artifacts import INLINE_BYTES
from crew_plugin.store.sqlite import SqliteStore
from tests.store.fold import assert_events_tell_the_rows
from tests.store.processes import environment
from tests.ui.runs import Book, open_book, play, project_in

SECRET = "sk-ant-api03-" + "a1B2c3D4" * 6
CAUSE = Cause(code=CauseCode.CALLER_CANCELLED, message=f"the provider said {SECRET}")
LEFT_OUT = "events.left_out"
LONG = "a line of a long log\n" * 2000


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return project_in(tmp_path)


@pytest.fixture
def store(project: Project) -> Iterator[SqliteStore]:
    with closing(SqliteStore.open(project)) as opened:
        yield opened


def note(text: str) -> NewEvent:
    return NewEvent(type="session.note", actor="code", data={"text": text})


def ended(store: SqliteStore) -> Book:
    """A run with a result, a long log and a note."""
    book = open_book(store)
    play(book)
    code = store.load_task(book.run.id, "code")
    store.put_artifact(book.run.id, "code/log.txt", LONG.encode(), task_id=code.id, log=True)
    book.say(note("half of it is done"))
    book.finish(code.attempt_id or "", NewResult(summary="done", artifacts={"patch": LONG + "patch"}))
    verify = store.load_task(book.run.id, "verify")
    store.transition_task(book.lease, verify.id, TaskState.SKIPPED, actor="supervisor", cause=CAUSE)
    book.end(RunState.FAILED, CAUSE)
    return book


def everything(
    store: SqliteStore, run_id: str | None, *, after: int = 0, at_once: int = 3
) -> list[EventRecord]:
    """All events from a cursor on, as a reader pages through them."""
    found: list[EventRecord] = []
    while page := store.tail(run_id, after_seq=after, limit=at_once):
        found += page
        after = page[-1].seq
    return found


def accounted(events: list[EventRecord]) -> int:
    """How many events a reader knows of: those that it got, and those that it was told are gone."""
    return sum(event.data["events"] if event.type == LEFT_OUT else 1 for event in events)


# --- events ---


def test_a_run_keeps_so_many_chatty_events_and_counts_the_others(store: SqliteStore) -> None:
    store.chatty_events = 100
    book = open_book(store)
    begun = store.last_seq()
    for n in range(150):
        book.say(note(str(n)), note("again"))
    book.say(NewEvent(type="run.blocked", actor="supervisor"))

    read = everything(store, book.run.id, after=begun, at_once=7)

    assert accounted(read) == 301
    assert [event.type for event in read[:100]] == ["session.note"] * 100
    assert [event.type for event in read[100:]] == [LEFT_OUT, "run.blocked"]
    gap = read[100].data
    assert (gap["events"], gap["first_seq"], gap["last_seq"]) == (200, begun + 101, begun + 300)
    assert read[-1].seq == begun + 301
    assert (read[100].actor, read[100].epoch) == ("supervisor", book.lease.epoch)
    assert "a run keeps 100" in gap["because"]


def test_a_cursor_inside_of_what_is_left_out_is_told_and_no_number_is_used_twice(
    store: SqliteStore, project: Project
) -> None:
    store.chatty_events = 100
    book = open_book(store)
    book.say(*[note(str(n)) for n in range(120)])
    cursor = store.last_seq()

    with closing(SqliteStore.open(project)) as other:
        other.chatty_events = 100
        assert other.last_seq() == cursor
        kept = other.append_events(None, book.run.id, [NewEvent(type="run.blocked", actor="operator")])
        other.append_events(None, book.run.id, [note("too much")])
    read = everything(store, book.run.id, after=cursor)

    assert [event.seq for event in kept] == [cursor + 1]
    assert [event.type for event in read] == ["run.blocked", LEFT_OUT]
    assert read[1].seq == cursor + 2


def test_what_is_rolled_back_uses_up_no_room(store: SqliteStore) -> None:
    store.chatty_events = 100
    book = open_book(store)
    book.say(*[note(str(n)) for n in range(90)])
    with suppress(ZeroDivisionError), store.transaction():
        book.say(*[note("lost") for _ in range(50)])
        raise ZeroDivisionError
    book.say(*[note("kept") for _ in range(10)])

    assert all(event.type != LEFT_OUT for event in everything(store, book.run.id))


def test_an_old_run_loses_chatty_events_and_each_reader_is_told(store: SqliteStore) -> None:
    book = ended(store)
    before = everything(store, book.run.id)
    held = {event.seq: event for event in before}

    thinned = store.thin_run(book.run.id, actor="operator", because="it is old")

    assert thinned.events > 0
    after = everything(store, book.run.id)
    for event in after:
        if event.type not in (LEFT_OUT, "artifact.removed"):
            assert held[event.seq] == event
    for cursor in [0, *held]:
        read = everything(store, book.run.id, after=cursor)
        due = [seq for seq in held if seq > cursor]
        got = {event.seq for event in read if event.type != LEFT_OUT}
        gaps = [event.data for event in read if event.type == LEFT_OUT]
        for seq in due:
            assert seq in got or any(gap["first_seq"] <= seq <= gap["last_seq"] for gap in gaps)
    assert_events_tell_the_rows(store)
    assert store.thin_run(book.run.id, actor="operator", because="it is old").events == 0


def test_who_reads_all_runs_is_told_of_a_forgotten_one(store: SqliteStore) -> None:
    book, other = ended(store), ended(store)
    count = accounted(everything(store, None))

    store.forget_run(book.run.id, actor="operator", reason="had a password in it")

    read = everything(store, None)
    assert accounted(read) == count
    gaps = [event for event in read if event.type == LEFT_OUT]
    assert [(gap.run_id, gap.actor) for gap in gaps] == [(book.run.id, "operator")]
    assert "was forgotten (had a password in it)" in gaps[0].data["because"]
    assert everything(store, other.run.id)


# --- artifacts ---


def test_bodies_that_are_no_results_go_and_say_when_and_why(store: SqliteStore) -> None:
    book = ended(store)
    log = next(ref for ref in store.list_artifacts(book.run.id) if ref.name == "code/log.txt")

    thinned = store.thin_run(book.run.id, actor="operator", because="details are kept for 3 days")
    store.sweep_bodies(thinned.bodies)

    with pytest.raises(BodyRemoved, match=r"removed by policy on \d{4}-\d\d-\d\d because details are kept"):
        store.read_artifact(log.sha256)
    listed = {ref.name: ref.removed for ref in store.list_artifacts(book.run.id)}
    assert "because details are kept for 3 days" in (listed["code/log.txt"] or "")
    result = store.list_results(book.run.id)[-1]
    assert store.read_artifact(result.artifacts["patch"].sha256).decode() == LONG + "patch"
    assert store.read_artifact(result.body.sha256)
    last = next(each for each in store.load_tasks(book.run.id) if each.key == "security").attempt_id
    ref = store.load_attempt(last or "").last_text
    assert ref is not None
    assert store.read_artifact(ref.sha256)


def test_a_body_that_another_run_needs_stays(store: SqliteStore) -> None:
    gone, kept = ended(store), ended(store)
    log = next(ref for ref in store.list_artifacts(kept.run.id) if ref.name == "code/log.txt")

    store.thin_run(gone.run.id, actor="operator", because="it is old")
    store.sweep_bodies()

    assert store.read_artifact(log.sha256).decode() == LONG


def test_nothing_of_a_run_that_goes_on_is_thinned(store: SqliteStore) -> None:
    book = open_book(store)

    with pytest.raises(NotAllowed, match="nothing of it is deleted before its end"):
        store.thin_run(book.run.id, actor="operator", because="old")


def test_a_late_writer_of_another_process_writes_no_body_of_a_forgotten_run(
    store: SqliteStore, project: Project
) -> None:
    book = ended(store)
    store.sweep_bodies(store.forget_run(book.run.id, actor="operator", reason="").bodies)
    code = f"""
from pathlib import Path
from crew_plugin.project import Project
from crew_plugin.store.sqlite import SqliteStore
project = Project(root=Path({str(project.root)!r}), state_dir=Path({str(project.state_dir)!r}))
store = SqliteStore.open(project)
store.put_artifact({book.run.id!r}, "late.txt", b"x" * {INLINE_BYTES * 2})
"""
    late = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert late.returncode == 1
    assert f"{Forgotten.__name__}: run {book.run.id} ended failed and was forgotten" in late.stderr
    assert [path for path in project.artifacts.rglob("*") if path.is_file()] == []


# --- secrets ---


def test_logs_are_redacted_before_they_are_hashed_and_results_never(store: SqliteStore) -> None:
    book = open_book(store)
    attempt = book.start("explore")
    body = f"env says {SECRET}\n".encode()

    log = store.put_artifact(book.run.id, "log.txt", body, log=True)
    plain = store.put_artifact(book.run.id, "found.txt", body)
    entry = TranscriptEntry(
        seq=0, role="tool", content=f"it is {SECRET}", data={"arguments": f'{{"k": "{SECRET}"}}'}
    )
    book.talk(attempt, entry, TranscriptEntry(seq=0, role="tool", content=f"{SECRET}\n{LONG}", data={}))
    book.call(attempt, "bash", f"curl -H {SECRET}")
    book.say(note(f"found {SECRET}"))
    data = {"token": SECRET, "password": "kept"}
    book.finish(attempt, NewResult(summary=f"the key is {SECRET}", data=data))

    kept = store.read_artifact(log.sha256)
    assert kept == b"env says [redacted: api key of Anthropic]\n"
    assert log.sha256 == hashlib.sha256(kept).hexdigest()
    assert store.read_artifact(plain.sha256) == body
    session = store.load_attempt(attempt).session_id
    told = store.read_transcript(session)
    assert told[0].content == "it is [redacted: api key of Anthropic]"
    assert told[0].data == {"arguments": '{"k": "[redacted: api key of Anthropic]"}'}
    assert told[1].content == f"[redacted: api key of Anthropic]\n{LONG}"
    assert [call.arguments for call in store.list_tool_calls(attempt)] == [
        "curl -H [redacted: api key of Anthropic]"
    ]
    result = store.list_results(book.run.id)[0]
    assert (result.summary, result.data) == (f"the key is {SECRET}", data)
    assert all(SECRET not in str(event.data) for event in everything(store, book.run.id))


def test_causes_and_errors_of_tools_are_redacted(store: SqliteStore) -> None:
    book = open_book(store)
    attempt = book.start("explore")
    call = store.begin_tool_call(book.lease, attempt, "bash", Effect.PURE, "{}")
    store.end_tool_call(call, error=f"401 for {SECRET}", cancelled=False)
    book.say(NewEvent(type="session.note", actor="explore", cause=CAUSE, data={}))

    assert SECRET not in (store.list_tool_calls(attempt)[0].error or "")
    assert SECRET not in str(everything(store, book.run.id)[-1].cause)


# --- links ---

needs_links = pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")


@needs_links
def test_no_body_is_read_written_or_deleted_through_a_link(store: SqliteStore, tmp_path: Path) -> None:
    book = open_book(store)
    outside = tmp_path / "outside"
    outside.mkdir()
    body = LONG.encode()
    sha256 = hashlib.sha256(body).hexdigest()
    (outside / sha256).write_bytes(body)
    folder = project_in(tmp_path).artifacts
    folder.mkdir(exist_ok=True)
    (folder / sha256[:2]).symlink_to(outside)

    with pytest.raises(StateUnwritable, match="is a link"):
        store.put_artifact(book.run.id, "a.txt", body)
    with pytest.raises(CrewError, match="is a link"):
        store.read_artifact(sha256)
    store.sweep_bodies()
    assert (outside / sha256).read_bytes() == body

    (folder / sha256[:2]).unlink()
    (folder / sha256[:2]).mkdir()
    (folder / sha256[:2] / sha256).symlink_to(outside / sha256)
    with pytest.raises(StateUnwritable, match="is a link"):
        store.put_artifact(book.run.id, "a.txt", body)


@needs_links
@pytest.mark.parametrize("place", [".crew", ".crew/state"])
def test_a_state_folder_of_a_project_that_is_a_link_is_refused(tmp_path: Path, place: str) -> None:
    root, outside = tmp_path / "project", tmp_path / "outside"
    outside.mkdir()
    (root / place).parent.mkdir(parents=True)
    (root / place).symlink_to(outside)
    project = project_in(root)

    for read_only in (False, True):
        with pytest.raises(StateUnwritable, match=r"is a link; say with --state-dir"):
            SqliteStore.open(project, read_only=read_only)
    assert list(outside.iterdir()) == []


@needs_links
def test_a_state_folder_that_the_person_names_may_be_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "project").mkdir()

    SqliteStore.open(Project(root=tmp_path / "project", state_dir=tmp_path / "link")).close()

    assert (outside / "crew.db").exists()
