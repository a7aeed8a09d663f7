"""Tasks that are tried again, and what becomes of those that were given up: real processes and a
provider that is down."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import DeadLetterState, GaveUp, ParentRef, Usage
from crew_plugin.models.states import AttemptState, RunState, TaskState
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from tests.cli.terminal import crew, document
from tests.cli.test_takeover import events, home_of, started, until
from tests.hosts.bub_terminal import scripted_model
from tests.screen import WAIT
from tests.ui.runs import Book, open_book, project_in

CAUSE = Cause(code=CauseCode.MODEL_ERROR, message="the provider answered 503")
PARENT = ParentRef(host="bub", session="chat", route={})
AT_ONCE = {"CREW_LIMITS__MODEL_RETRIES": "0", "CREW_RETRY__BASE_SECONDS": "0"}


class Down:
    """A provider that is down until somebody mends it."""

    def __init__(self) -> None:
        self.mended = False

    def __call__(self, conversation: Conversation) -> Reply:
        if not self.mended:
            return Reply(fault=Fault.SERVER_ERROR)
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "at last"}),))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(project_in(tmp_path))
    yield opened
    opened.close()


def here(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(build_app(), [*words, "--project", str(folder)])


def listed(folder: Path, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]]
    found = json.loads(here(folder, "deadletters", "list", *words, "--json").stdout)["dead_letters"]
    return found


def given_up(store: SqliteStore, *, parent: ParentRef | None = None) -> Book:
    """A run whose first task failed twice and was given up, and whose others were skipped."""
    book = open_book(store, parent=parent)
    for number, gave_up in ((1, None), (2, GaveUp.ATTEMPTS)):
        attempt = book.start("explore", model=f"model-{number}")
        book.spend(attempt, Usage(input=1000 * number, output=10, calls=1))
        store.end_attempt(
            book.lease,
            attempt,
            AttemptState.FAILED,
            task_state=TaskState.FAILED if gave_up else None,
            actor="supervisor",
            cause=CAUSE,
            gave_up=gave_up,
        )
    for key in ("code", "security", "verify"):
        task = store.load_task(book.run.id, key)
        store.transition_task(book.lease, task.id, TaskState.SKIPPED, actor="supervisor", cause=CAUSE)
    book.end(RunState.FAILED, CAUSE)
    return book


@pytest.mark.bub
@pytest.mark.timeout(120)
def test_a_task_whose_provider_was_down_is_requeued_from_the_dead_letters_and_completes(
    tmp_path: Path,
) -> None:
    model = Down()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        failed = crew(home, "run", "--agent", "looks", "look", env=AT_ONCE)
        status = crew(home, "status", "last")
        before = document(crew(home, "deadletters", "--json"))["dead_letters"]
        model.mended = True
        done = crew(home, "deadletters", "requeue", before[0]["id"][-6:], "--json", env=AT_ONCE)
    assert failed.returncode == 1
    assert [letter["reason"] for letter in before] == ["attempts"]
    assert [letter["attempts"] for letter in before] == [2]
    assert before[0]["cause"]["code"] == "model_error"
    assert "given up: looks (tried as often as it may be)" in status.stdout
    assert f"crew deadletters requeue {before[0]['run_id']}" in status.stdout
    run = document(done)
    assert (done.returncode, run["state"], run["dead_letters"]) == (0, "completed", []), done.stderr
    tries = run["tasks"][0]["tries"]
    assert [each["state"] for each in tries] == ["failed", "failed", "completed"]
    assert document(crew(home, "deadletters", "--json"))["dead_letters"] == []
    (requeued,) = document(crew(home, "deadletters", "list", "all", "--all", "--json"))["dead_letters"]
    assert (requeued["state"], requeued["by"]) == ("requeued", "operator")
    kinds = [event["type"] for event in events(home)]
    assert kinds.count("task.retry_due") == 1
    assert kinds.index("task.failed") + 1 == kinds.index("task.given_up")


@pytest.mark.bub
@pytest.mark.timeout(120)
def test_a_pause_before_the_next_attempt_is_shown_as_a_wait_with_its_deadline(tmp_path: Path) -> None:
    model = Down()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        env = {**AT_ONCE, "CREW_RETRY__BASE_SECONDS": "3000", "CREW_RETRY__CAP_SECONDS": "3000"}
        with started(home, "--agent", "looks", "look", env=env) as process:
            until(home, "task.retry_due")
            shown = crew(home, "status", "last")
            health = crew(home, "health", "last")
            task = document(crew(home, "status", "last", "--json"))["tasks"][0]
            cancelled = crew(home, "cancel", "last")
            process.wait(timeout=WAIT)
    assert cancelled.returncode == 0
    assert "waits until " in shown.stdout
    assert "then attempt 2 of 2; model_error" in shown.stdout
    assert "for its next attempt" in health.stdout
    assert task["state"] == "running"
    assert task["retry_at"] > time.time()
    assert document(crew(home, "deadletters", "--json"))["dead_letters"] == []


@pytest.mark.bub
@pytest.mark.timeout(120)
def test_dead_letters_of_several_runs_go_on_in_the_background_side_by_side(tmp_path: Path) -> None:
    model = Down()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        for _ in range(2):
            crew(home, "run", "--agent", "looks", "look", env=AT_ONCE)
        model.mended = True
        refused = crew(home, "deadletters", "requeue", "all")
        told = document(crew(home, "deadletters", "requeue", "all", "--detach", "--json"))["requeued"]
        deadline = time.monotonic() + WAIT
        while {run["state"] for run in document(crew(home, "runs", "--json"))["runs"]} != {"completed"}:
            assert time.monotonic() < deadline
    assert refused.returncode == 2
    assert "--detach takes several" in refused.stderr
    assert [(each["tasks"], each["error"]) for each in told] == [(["looks"], None)] * 2


def test_each_attempt_is_shown_with_its_model_its_cause_and_what_it_used(
    tmp_path: Path, store: SqliteStore
) -> None:
    book = given_up(store)

    shown = here(tmp_path, "show", book.run.id, "explore").stdout
    status = json.loads(here(tmp_path, "status", book.run.id, "--json").stdout)

    assert "explore attempt 1: failed after 0.0s; small-1; 1.0k in, 10 out; model_error: the prov" in shown
    assert "explore attempt 2: failed after 0.0s; small-1; 2.0k in, 10 out; model_error: the prov" in shown
    assert [each["model_asked"] for each in status["tasks"][0]["tries"]] == ["model-1", "model-2"]
    assert [each["usage"]["input"] for each in status["tasks"][0]["tries"]] == [1000, 2000]
    assert [letter["task"] for letter in status["dead_letters"]] == ["explore"]


def test_dead_letters_are_listed_for_people_with_what_to_type(tmp_path: Path, store: SqliteStore) -> None:
    book, other = given_up(store), given_up(store)

    shown = here(tmp_path, "deadletters").stdout

    assert shown.count("2 attempts") == 2
    assert "tried as often as it may be: model_error: the provider answered 503" in shown
    assert "crew deadletters requeue ID" in shown
    assert [letter["run_id"] for letter in listed(tmp_path, book.run.id)] == [book.run.id]
    assert [letter["run_id"] for letter in listed(tmp_path)] == [book.run.id, other.run.id]


def test_dropping_needs_confirmation_is_audited_and_deletes_nothing(
    tmp_path: Path, store: SqliteStore
) -> None:
    book = given_up(store)
    before = here(tmp_path, "show", book.run.id).stdout

    unsure = here(tmp_path, "deadletters", "drop", book.run.id)
    done = here(tmp_path, "deadletters", "drop", book.run.id, "--yes", "--intent", "not worth it")

    assert unsure.exit_code == 2
    assert "this would drop 1 dead letter (explore of run" in unsure.stderr
    assert done.exit_code == 0, done.output
    (letter,) = store.list_dead_letters()
    assert (letter.state, letter.note) == (DeadLetterState.DROPPED, "not worth it")
    event = store.tail(book.run.id)[-1]
    assert (event.type, event.actor, event.data["reason"]) == (
        "dead_letter.dropped",
        "operator",
        "not worth it",
    )
    after = here(tmp_path, "show", book.run.id).stdout
    assert after.splitlines() == [line for line in before.splitlines() if not line.startswith("given up")]
    assert listed(tmp_path) == []
    assert [letter["state"] for letter in listed(tmp_path, "--all")] == ["dropped"]
    assert listed(tmp_path, letter.id) == listed(tmp_path, "--all")


def test_dead_letters_of_a_chat_are_its_own(tmp_path: Path, store: SqliteStore) -> None:
    given_up(store, parent=PARENT)

    refused = here(tmp_path, "deadletters", "drop", "all", "--yes")
    forced = here(tmp_path, "deadletters", "drop", "all", "--yes", "--force")

    assert refused.exit_code == 2
    assert "nothing is dropped: the run belongs to the session chat" in refused.stderr
    assert forced.exit_code == 0, forced.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("requeue",), "say which: a dead letter's id, a run, or all"),
        (("burn", "last"), "deadletters must be one of: list, requeue, drop; got 'burn'"),
        (("requeue", "dead_nothing"), "there is no dead letter 'dead_nothing'"),
        (("requeue", "run_nothing"), "there is no run 'run_nothing'"),
        (("drop", "all", "--yes"), "no task waits for somebody to try it again"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = here(tmp_path, "deadletters", *words)

    assert done.exit_code == 2
    assert told in done.stderr


def test_what_was_dropped_can_still_be_retried_by_name(tmp_path: Path, store: SqliteStore) -> None:
    book = given_up(store)
    (letter,) = store.list_dead_letters()
    store.drop_dead_letter(letter.id, actor="operator", reason="")

    refused = here(tmp_path, "deadletters", "requeue", letter.id)

    assert refused.exit_code == 2
    assert f"crew retry {book.run.id} explore" in refused.stderr
