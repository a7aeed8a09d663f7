"""Runs as plain text."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.events import EVENT_TYPES
from crew_plugin.models.records import ArtifactRef, EventRecord, NewResult, Usage
from crew_plugin.models.states import RunState
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.ui.events import event_line, events_text
from crew_plugin.ui.shapes import TaskName
from crew_plugin.ui.text import (
    answers_text,
    artifacts_text,
    fair_share,
    one_line,
    printable,
    result_text,
    runs_text,
    seconds_text,
    shorten,
    status_text,
    tokens_text,
)
from crew_plugin.ui.views import result_views, run_rows, run_view, task_names
from tests.ui.runs import DEAD, Book, open_book, play, project_in

NAMES = {"t1": TaskName(key="explore", agent="explorer")}
REF = ArtifactRef(sha256="ab" * 32, size=9, name="result.json")


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    store = SqliteStore.open(project_in(tmp_path))
    yield open_book(store)
    store.close()


def event(kind: str, *, task: str | None = "t1", cause: Cause | None = None, **data: object) -> EventRecord:
    return EventRecord(
        seq=7,
        run_id="run_1",
        at=1_700_000_000.0,
        epoch=1,
        type=kind,
        actor="operator",
        task_id=task,
        attempt_id=None,
        cause=cause,
        data=data,
    )


def test_the_status_names_each_task_its_state_and_what_it_is_about(book: Book) -> None:
    play(book)
    text = status_text(run_view(book.store, book.run.id))
    assert f"run {book.run.id}  running" in text
    assert "goal: look at the login code" in text
    assert "14.3k in, 1.0k out; 4 model calls" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert lines["explore"].endswith("Login is in login.py and session.py.")
    assert lines["code"].endswith("read login.py")
    assert "no_result: it never called submit_result" in lines["security"]
    assert lines["verify"].endswith("waits for code")


def test_the_status_of_a_lost_run_says_so_and_what_the_store_still_says(tmp_path: Path) -> None:
    store = SqliteStore.open(project_in(tmp_path))
    lost = open_book(store, owner=DEAD)
    text = status_text(run_view(store, lost.run.id))
    store.close()
    assert f"run {lost.run.id}  lost" in text
    assert f"supervisor (process {DEAD.pid}) is gone; the store still says running" in text


def test_runs_are_listed_one_to_a_line(book: Book) -> None:
    (line,) = runs_text(run_rows(book.store)).splitlines()
    assert line.startswith(f"{book.run.id}  running  review/review  4 queued")
    assert line.endswith("look at the login code")
    assert runs_text([]) == "no runs yet"


def test_a_row_that_is_wider_than_the_terminal_goes_on_indented_and_loses_nothing(book: Book) -> None:
    rows = run_rows(book.store)
    assert runs_text(rows, width=500) == runs_text(rows)
    narrow = runs_text(rows, width=60)
    lines = narrow.splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 60 for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])
    assert narrow.split() == runs_text(rows).split()


@given(st.text(max_size=3_000), st.integers(min_value=1, max_value=2_000))
def test_a_shortened_text_keeps_head_and_tail_and_counts_what_it_leaves_out(text: str, limit: int) -> None:
    short = shorten(text, limit, REF)
    if short == text:
        return
    head, note, tail = short.partition("\n... ")[0], short, short.rpartition(" ...\n")[2]
    left_out = int(note.partition("\n... ")[2].split(" ", 1)[0])
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + len(tail) + left_out == len(text)
    assert f"artifact {REF.sha256[:16]} (result.json)" in short


def test_a_text_that_fits_is_not_touched() -> None:
    assert shorten("hello", 5, REF) == "hello"


@pytest.mark.parametrize("limit", [500, 1_000, 10_000])
def test_a_long_text_is_cut_to_its_limit(limit: int) -> None:
    assert len(shorten("y" * 50_000, limit, REF)) <= limit


def test_every_task_of_an_answer_has_its_result_or_the_reason_why_not(book: Book) -> None:
    play(book)
    view = run_view(book.store, book.run.id)
    text = answers_text(view, result_views(book.store, book.run.id), limit=24_000)
    assert "## explore (explorer): completed" in text
    assert "Login is in login.py\nand session.py." in text
    assert '"files"' in text
    assert "map.md (6 B)" in text
    assert "## security (security-reviewer): needs_attention\nno_result: it never called" in text
    assert "no result; its last text: artifact" in text


def test_short_results_leave_their_room_to_long_ones(book: Book) -> None:
    book.finish(book.start("explore"), NewResult(summary="short"))
    book.finish(book.start("code"), NewResult(summary="l" * 5_000))
    book.finish(book.start("security"), NewResult(summary="m" * 90_000))
    view = run_view(book.store, book.run.id)
    text = answers_text(view, result_views(book.store, book.run.id), limit=12_000)
    assert "l" * 5_000 in text
    assert "characters left out; whole text: artifact" in text
    assert 9_000 < len(text) < 13_500


def test_data_that_does_not_fit_its_schema_is_said_in_words(book: Book) -> None:
    book.finish(book.start("explore"), NewResult(summary="found", flags=("overridden",)))
    (result,) = result_views(book.store, book.run.id)
    assert result_text(result).splitlines()[-1].startswith("note: the data does not fit the schema")


def test_a_result_in_full_is_not_shortened_but_loses_its_control_characters(book: Book) -> None:
    evil = "\x1b]0;owned\x07\x1b[31mred\u202e" + "x" * 50_000
    book.finish(book.start("explore"), NewResult(summary=evil))
    (result,) = result_views(book.store, book.run.id)
    text = result_text(result, limit=None)
    assert "x" * 50_000 in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_what_a_person_sees_never_steers_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\nc\td\x9b1m") == "a[2Jb\nc\td1m"
    assert one_line("a\n  b\x07 c", 20) == "a b c"
    assert one_line("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0s"), (9.9, "9.9s"), (12.2, "12s"), (184, "3m04s"), (3_660, "1h01m")],
)
def test_durations_read_like_people_say_them(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


def test_tokens_are_rounded_and_left_out_when_there_are_none() -> None:
    assert tokens_text(Usage()) == ""
    assert tokens_text(Usage(input=999, output=1_500_000, cost=0.5)) == "999 in, 1.5M out, $0.5000"


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            event("session.tool_started", tool="read", target="a.py"),
            "explore         explorer           read a.py",
        ),
        (
            event("session.tool_ended", tool="read", ok=False),
            "explore         explorer           read failed",
        ),
        (event("session.tool_ended", tool="read", ok=True), None),
        (event("session.tool_started", tool="submit_result", target=""), None),
        (event("session.model_answered", step=1), None),
        (event("task.started", number=2), "explore         explorer           started again (attempt 2)"),
        (
            event("session.reminded", n=1, of=3),
            "explore         explorer           asked for its result (1 of 3)",
        ),
        (
            event("run.failed", task=None, cause=Cause(code=CauseCode.TASK_FAILED, message="code failed")),
            "run             failed: code failed",
        ),
        (
            event("control.requested", task=None, verb="cancel"),
            "run             cancel requested by operator",
        ),
    ],
)
def test_a_notable_event_is_one_line_and_others_none(record: EventRecord, line: str | None) -> None:
    assert event_line(record, NAMES) == line


@pytest.mark.parametrize("kind", sorted(EVENT_TYPES))
def test_every_kind_of_event_can_be_shown_even_without_its_data(kind: str) -> None:
    assert kind in events_text([event(kind)], NAMES)
    line = event_line(event(kind, task="unknown"), NAMES)
    assert line is None or "\n" not in line


def test_events_and_artifacts_name_the_task_they_belong_to(book: Book) -> None:
    play(book)
    names = task_names(book.store, book.run.id)
    assert " explore " in events_text(book.store.tail(book.run.id), names)
    listed = artifacts_text(book.store.list_artifacts(book.run.id), names)
    assert "explore" in listed
    assert artifacts_text([], names) == "no artifacts"


def test_the_end_of_a_run_is_told_with_its_cause(book: Book) -> None:
    for key in ("explore", "code", "security", "verify"):
        book.finish(book.start(key), NewResult(summary="done"))
    book.end(RunState.FAILED, Cause(code=CauseCode.TASK_FAILED, message="verify failed"))
    text = status_text(run_view(book.store, book.run.id))
    assert "\ncause: task_failed: verify failed\n" in text


def test_texts_that_fit_together_are_not_cut() -> None:
    assert fair_share([900, 1500, 1600, 1700], 6000, least=100) == 1700


def test_short_texts_leave_their_room_to_long_ones() -> None:
    assert fair_share([100, 5000, 5000], 6100, least=100) == 3000


def test_no_text_is_cut_below_the_least() -> None:
    assert fair_share([500] * 100, 1000, least=140) == 140


def test_nothing_to_show_needs_no_share() -> None:
    assert fair_share([], 1000, least=140) == 140
