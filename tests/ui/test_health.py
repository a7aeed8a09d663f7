"""What is shown of the health of a run."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_plugin.models.records import Counts, NewEvent, Usage
from crew_plugin.models.states import RunState
from crew_plugin.observe.health import Rating
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.ui.health import health_text, health_view, usage_text
from crew_plugin.ui.views import run_view
from tests.ui.runs import DEAD, Book, open_book, play, project_in

COUNTS = Counts(
    tool_calls=31,
    tool_errors=7,
    recent=10,
    recent_errors=6,
    retries=2,
    model_errors=3,
    compactions=1,
    context=185_000,
    window=200_000,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(project_in(tmp_path))
    yield opened
    opened.close()


def test_a_session_in_trouble_is_rated_and_what_is_wrong_is_named(store: SqliteStore) -> None:
    book = open_book(store)
    play(book)
    (attempt,) = store.list_attempts(store.load_task(book.run.id, "code").id)
    usage = Usage(input=182_300, output=4_200, cached=90_000, calls=14, cost=0.1234)
    store.touch_attempt(book.lease, attempt.id, usage=usage, steps=14, model_used="gpt-5", counts=COUNTS)
    view = health_view(store, book.run.id, now=time.time() + 80)
    (code,) = [session for session in view.sessions if session.task == "code"]
    assert code.verdict is not None
    assert code.verdict.rating is view.rating is Rating.ERRORING
    assert (code.steps, code.model, code.counts) == (14, "gpt-5", COUNTS)
    for width in (None, 80, 120):
        text = health_text(view, width=width)
        assert all(len(line) <= (width or 999) for line in text.splitlines())
        for wanted in (
            "14 calls (3 failed)",
            "31 tools (7 failed)",
            "context 92%",
            "182.3k/4.2k $0.1234",
            "gpt-5",
            "6 of the last 10",
        ):
            assert wanted in text


def test_what_happened_in_all_attempts_of_a_task_is_counted(store: SqliteStore) -> None:
    book = open_book(store)
    usage = Usage(input=100, output=10, calls=3)
    for window in (1_000, 2_000):
        attempt = book.start("explore")
        counts = Counts(tool_calls=5, tool_errors=1, retries=2, model_errors=3, context=900, window=window)
        store.touch_attempt(book.lease, attempt, usage=usage, steps=3, model_used="small-1", counts=counts)
        if window == 1_000:
            book.try_again(attempt)
    view = health_view(store, book.run.id)
    (session,) = view.sessions
    told = session.as_json()
    wanted = {"attempts": 2, "model_calls": 6, "tool_calls": 10, "tool_errors": 2, "retries": 4}
    assert wanted.items() <= told.items()
    assert (told["model_errors"], told["context"], told["window"]) == (6, 900, 2_000)
    assert session.verdict is not None
    assert session.verdict.rating is Rating.HEALTHY  # of the session that works now: half of its context
    text = health_text(view)
    assert "6 model calls (6 failed, 4 made again), 10 tool calls (2 failed)" in text
    assert "2 attempts  6 calls (6 failed)  10 tools (2 failed)  context 45%" in text
    (task,) = [task for task in run_view(store, book.run.id).tasks if task.key == "explore"]
    assert (task.steps, task.counts) == (6, session.counts)
    assert {"attempts": 2, "steps": 6, "retries": 4, "model_errors": 6}.items() <= task.as_json().items()


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("bash", '{"command": "pytest -q"}', "in bash pytest -q"),
        ("irc", '{"op": "send", "to": "code", "await_reply": true}', "waits for a reply from code"),
        ("irc", '{"op": "wait", "to": ["code", "verify"]}', "waits for a reply from code, verify"),
        (None, "", "waits for its model"),
    ],
)
def test_it_says_why_a_session_is_quiet(
    store: SqliteStore, tool: str | None, arguments: str, said: str
) -> None:
    book = open_book(store)
    attempt = book.start("explore")
    if tool is not None:
        book.call(attempt, tool, arguments)
    (session,) = health_view(store, book.run.id, now=time.time() + 70).sessions
    assert session.doing == said
    assert session.since == pytest.approx(70, abs=5)
    assert session.verdict is not None
    assert session.verdict.rating is Rating.QUIET


def _waits_for_its_job(store: SqliteStore, book: Book, *, seconds: float, then: str | None = None) -> None:
    """A session that has ended its turn while a job of its own runs in the background."""
    attempt = book.start("explore")
    task_id = store.load_attempt(attempt).task_id
    data = {"for": ["job_1 make all"], "seconds": seconds}
    for kind, said in (("session.waiting", data), *([(then, {})] if then else [])):
        book.say(NewEvent(type=kind, actor="explore", task_id=task_id, attempt_id=attempt, data=said))


@pytest.mark.parametrize("then", [None, "session.mcp_server"])
def test_a_session_that_waits_for_its_own_job_is_where_it_should_be(
    store: SqliteStore, then: str | None
) -> None:
    book = open_book(store)
    _waits_for_its_job(store, book, seconds=600, then=then)
    (session,) = health_view(store, book.run.id, now=time.time() + 280).sessions
    assert session.doing == "waits for its job job_1 make all"
    assert session.since == pytest.approx(280, abs=5)
    assert session.verdict is not None
    assert session.verdict.rating is Rating.HEALTHY


def test_a_wait_for_a_job_excuses_no_silence_after_its_time(store: SqliteStore) -> None:
    book = open_book(store)
    _waits_for_its_job(store, book, seconds=100)
    for later, rating in ((110, Rating.HEALTHY), (180, Rating.QUIET), (390, Rating.STUCK)):
        (session,) = health_view(store, book.run.id, now=time.time() + later).sessions
        assert session.doing == "waits for its model"
        assert session.verdict is not None
        assert session.verdict.rating is rating


@pytest.mark.parametrize("then", ["session.job_ended", "message.delivered"])
def test_a_session_that_goes_on_after_its_wait_may_be_stuck_again(store: SqliteStore, then: str) -> None:
    book = open_book(store)
    _waits_for_its_job(store, book, seconds=600, then=then)
    (session,) = health_view(store, book.run.id, now=time.time() + 280).sessions
    assert session.doing == "waits for its model"
    assert session.verdict is not None
    assert session.verdict.rating is Rating.STUCK


def test_a_supervisor_whose_renewals_stand_still_shows_as_stalled(store: SqliteStore) -> None:
    book = open_book(store)
    play(book)
    view = health_view(store, book.run.id, still=12.0)
    assert (view.shown_state, view.supervisor) == ("stalled", "stalled")
    assert "has not renewed its lease for 12s" in health_text(view)
    assert health_view(store, book.run.id, still=3.0).supervisor == "alive"
    book.end(RunState.CANCELLED)
    assert health_view(store, book.run.id, still=99.0).supervisor == "none"


def test_nothing_of_a_lost_run_is_rated(store: SqliteStore) -> None:
    book = open_book(store, owner=DEAD)
    book.start("explore")
    view = health_view(store, book.run.id)
    assert view.supervisor == view.shown_state == "lost"
    assert [session.verdict for session in view.sessions] == [None]
    assert "is gone" in health_text(view)


def test_zero_counts_are_not_shown_and_an_unknown_cost_neither() -> None:
    assert usage_text(Usage(input=10, output=2, calls=1), [Counts()]) == "10 tokens in, 2 out, 1 model call"
    assert usage_text(Usage(input=10, output=2, calls=2, cost=0.5), [COUNTS]) == (
        "10 tokens in, 2 out, $0.5000, 2 model calls (3 failed, 2 made again), "
        "31 tool calls (7 failed), 1 compaction"
    )
