"""When what background runs owe their parent is due."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import NewResult, NewRun, NewTask, Owner, ParentRef
from crew_plugin.models.states import RunState
from crew_plugin.observe.owed import Group, JoinPolicy, group_of
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore
from tests.ui.runs import DEAD, Book, project_in

CAUSE = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
WHO = ("bub", "chat")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(project_in(tmp_path))
    yield opened
    opened.close()


def a_run(
    store: SqliteStore,
    *keys: str,
    turn: str = "turn_1",
    after: dict[str, tuple[str, ...]] | None = None,
    owner: Owner | None = None,
) -> Book:
    """A background run of these tasks that a chat asked for in this turn."""
    parent = ParentRef(host=WHO[0], session=WHO[1], route={"turn": turn})
    tasks = [
        NewTask(key=key, title=key, role="r", agent="a", depends_on=(after or {}).get(key, ()))
        for key in keys
    ]
    new = NewRun(goal="g", team="t", workflow="w", cwd="/w", spec="{}", background=True, parent=parent)
    run = store.create_run(new, tasks, actor="host")
    lease = store.claim(run.id, owner or current_owner())
    store.transition_run(lease, RunState.RUNNING, actor="supervisor")
    return Book(store=store, run=run, lease=lease)


def done(book: Book, *keys: str) -> None:
    for key in keys:
        book.finish(book.start(key), NewResult(summary=key))


def group(
    store: SqliteStore, book: Book, how: Literal["off", "group", "smart"], *, after: float = 0
) -> Group:
    """What is owed so many seconds after the first result of the store."""
    since = min(row.created_at for row in store.list_deliveries())
    policy = JoinPolicy(how=how, first_seconds=60, longest_seconds=600)
    found = group_of(store, book.run.id, policy, now=since + after)
    assert found is not None
    return found


def keys_of(store: SqliteStore, found: Group) -> list[str]:
    """The tasks whose results are due, and `end` for the end of a run."""
    return [
        "end" if row.task_id is None else store.load_task(row.run_id, row.task_id).key for row in found.due
    ]


def hand_over(store: SqliteStore, found: Group) -> None:
    ids = [row.id for row in found.due]
    store.mark_sent(ids, actor="host")
    store.acknowledge(ids, actor="host")


def test_where_nothing_is_joined_each_result_is_due_when_its_task_has_ended(store: SqliteStore) -> None:
    book = a_run(store, "a", "b", "c")
    done(book, "a")
    assert keys_of(store, group(store, book, "off")) == ["a"]
    hand_over(store, group(store, book, "off"))

    attempt = book.start("b")
    store.accept_result(book.lease, attempt, NewResult(summary="b"), actor="session")

    assert keys_of(store, group(store, book, "off")) == [], "its session may still hand in another one"


def test_the_last_result_of_a_run_comes_with_its_end(store: SqliteStore) -> None:
    book = a_run(store, "only")
    done(book, "only")
    assert keys_of(store, group(store, book, "off")) == []
    book.end(RunState.COMPLETED)
    assert keys_of(store, group(store, book, "off")) == ["only", "end"]


def test_a_group_is_due_when_all_its_runs_have_ended(store: SqliteStore) -> None:
    one, two = a_run(store, "a"), a_run(store, "b")
    other = a_run(store, "x", turn="turn_2")
    done(one, "a")
    one.end(RunState.COMPLETED)

    waiting = group(store, one, "group", after=599)
    assert waiting.due == ()
    assert [run.id for run in waiting.open] == [two.run.id]

    two.end(RunState.FAILED, CAUSE)
    for book in (one, two):
        whole = group(store, book, "group")
        assert keys_of(store, whole) == ["a", "end", "end"]
        assert [run.id for run in whole.runs] == [one.run.id, two.run.id]
    assert other.run.id not in {run.id for run in whole.runs}


def test_nothing_waits_for_a_straggler_longer_than_allowed(store: SqliteStore) -> None:
    one, _straggler = a_run(store, "a"), a_run(store, "b")
    done(one, "a")
    one.end(RunState.COMPLETED)

    waiting = group(store, one, "group", after=599)
    assert waiting.until == pytest.approx(waiting.held[0].created_at + 600)
    assert keys_of(store, group(store, one, "group", after=601)) == ["a", "end"]


def test_smartly_joined_the_first_come_early_and_the_rest_together(store: SqliteStore) -> None:
    book = a_run(store, "a", "b", "c", "d")
    done(book, "a", "b")
    assert keys_of(store, group(store, book, "smart", after=59)) == []
    early = group(store, book, "smart", after=61)
    assert keys_of(store, early) == ["a", "b"]
    hand_over(store, early)

    done(book, "c")
    assert keys_of(store, group(store, book, "smart", after=120)) == []
    done(book, "d")
    book.end(RunState.COMPLETED)
    assert keys_of(store, group(store, book, "smart", after=121)) == ["c", "d", "end"]


def test_what_others_of_a_run_build_on_does_not_come_early(store: SqliteStore) -> None:
    book = a_run(store, "a", "b", "side", after={"b": ("a",)})
    done(book, "a")
    waiting = group(store, book, "smart", after=61)
    assert waiting.due == ()
    assert waiting.until == pytest.approx(waiting.held[0].created_at + 600), "a deadline all the same"
    done(book, "side")
    assert keys_of(store, group(store, book, "smart", after=70)) == ["side"]
    assert keys_of(store, group(store, book, "smart", after=601)) == ["a", "side"]


def test_what_was_sent_and_lost_does_not_wait_again(store: SqliteStore) -> None:
    book = a_run(store, "a", "b")
    done(book, "a")
    early = group(store, book, "smart", after=61)
    store.mark_sent([row.id for row in early.due], actor="host", parcel="delivery_x")

    again = group(store, book, "smart", after=61)

    assert keys_of(store, again) == ["a"]
    assert again.sent == {"delivery_x"}


def test_a_run_whose_process_died_before_its_end_still_hands_over(store: SqliteStore) -> None:
    book = a_run(store, "only", owner=DEAD)
    done(book, "only")
    assert keys_of(store, group(store, book, "off")) == ["only"]


def test_a_run_that_has_handed_over_everything_owes_nothing(store: SqliteStore) -> None:
    book = a_run(store, "only")
    done(book, "only")
    book.end(RunState.COMPLETED)
    hand_over(store, group(store, book, "smart"))
    policy = JoinPolicy(how="smart", first_seconds=1, longest_seconds=1)
    assert group_of(store, book.run.id, policy, now=0) is None
