"""What is told of a background run, and that it is told once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_plugin.config.settings import NotifySettings
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.questions import NewQuestion, QuestionState
from crew_plugin.models.records import NewRun, NewTask, Owner
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.notify.notice import ENDED, LOST, find_notice
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore
from tests.ui.runs import DEAD, Book, project_in

CAUSE = Cause(code=CauseCode.TASK_FAILED, message="explore failed")
WANTED = NotifySettings().when


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(project_in(tmp_path))
    yield opened
    opened.close()


def book(store: SqliteStore, *, background: bool = True, owner: Owner | None = None) -> Book:
    tasks = [NewTask(key="explore", title="Explore", role="r", agent="explorer")]
    new = NewRun(goal="look", team="review", workflow="w", cwd="/w", spec="{}", background=background)
    run = store.create_run(new, tasks, actor="operator")
    lease = store.claim(run.id, owner or current_owner())
    store.transition_run(lease, RunState.RUNNING, actor="supervisor")
    return Book(store=store, run=run, lease=lease)


def test_how_a_run_ended_is_told_with_its_cause(store: SqliteStore) -> None:
    one = book(store)
    assert find_notice(store, one.run.id, ENDED, WANTED) is None
    one.end(RunState.FAILED, CAUSE)
    found = find_notice(store, one.run.id, ENDED, WANTED)
    assert found is not None
    assert (found.kind, found.title, found.body) == (
        "failed",
        "crew: explorer failed",
        "look; explore failed",
    )


def test_only_what_is_wanted_is_told_and_nothing_of_runs_that_somebody_waits_for(store: SqliteStore) -> None:
    waited_for = book(store, background=False)
    waited_for.end(RunState.FAILED, CAUSE)
    assert find_notice(store, waited_for.run.id, ENDED, WANTED) is None

    stopped = book(store)
    stopped.end(RunState.CANCELLED, CAUSE)
    assert find_notice(store, stopped.run.id, ENDED, WANTED) is None
    assert find_notice(store, stopped.run.id, ENDED, ("cancelled",)) is not None


def test_a_lost_run_is_told_as_long_as_nobody_goes_on_with_it(store: SqliteStore) -> None:
    gone, fine = book(store, owner=DEAD), book(store)
    found = find_notice(store, gone.run.id, LOST, WANTED)
    assert found is not None
    assert found.kind == "lost"
    assert find_notice(store, fine.run.id, LOST, WANTED) is None


def test_a_question_is_told_while_it_is_open(store: SqliteStore) -> None:
    one = book(store)
    attempt = one.start("explore")
    asked = store.ask_question(
        one.lease, attempt, NewQuestion(text="both files?", expires_at=9e9), actor="session"
    )
    found = find_notice(store, one.run.id, asked.id, WANTED)
    assert found is not None
    assert (found.title, found.body) == ("crew: explorer asks (explore)", "both files?")
    store.close_question(one.lease, asked.id, QuestionState.EXPIRED, actor="session")
    assert find_notice(store, one.run.id, asked.id, WANTED) is None


def test_a_forgotten_run_is_told_of_to_nobody(store: SqliteStore) -> None:
    one = book(store)
    one.end(RunState.FAILED, CAUSE)
    store.forget_run(one.run.id, actor="operator", reason="")
    assert find_notice(store, one.run.id, ENDED, WANTED) is None


def test_an_end_after_a_retry_is_another_end(store: SqliteStore) -> None:
    one = book(store)
    task = store.load_task(one.run.id, "explore")
    store.transition_task(one.lease, task.id, TaskState.CANCELLED, actor="supervisor", cause=CAUSE)
    one.end(RunState.CANCELLED, CAUSE)
    first = find_notice(store, one.run.id, ENDED, ("cancelled",))
    store.reopen_run(one.run.id, ["explore"], actor="operator")
    lease = store.claim(one.run.id, current_owner())
    store.transition_run(lease, RunState.CANCELLED, actor="supervisor", cause=CAUSE)
    second = find_notice(store, one.run.id, ENDED, ("cancelled",))
    assert first is not None
    assert second is not None
    assert store.claim_notice(one.run.id, first.about, how="bell", actor="crew")
    assert not store.claim_notice(one.run.id, first.about, how="bell", actor="crew")
    assert store.claim_notice(one.run.id, second.about, how="bell", actor="crew")
