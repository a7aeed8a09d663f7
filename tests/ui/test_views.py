"""What is read from the store about runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_plugin.errors import UnknownName
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.records import NewResult, Usage
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.ui.views import LOST, result_views, run_document, run_rows, run_view, task_names, tool_target
from tests.ui.runs import DEAD, open_book, play, project_in


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(project_in(tmp_path))
    yield opened
    opened.close()


def test_a_view_says_what_each_task_does_did_or_waits_for(store: SqliteStore) -> None:
    book = open_book(store)
    play(book)
    view = run_view(store, book.run.id)
    explore, code, security, verify = view.tasks
    assert (explore.state, explore.summary.splitlines()[0]) == (TaskState.COMPLETED, "Login is in login.py")
    assert (code.state, code.now, code.model) == (TaskState.RUNNING, "read login.py", "small-1")
    assert security.last_text is not None
    assert (verify.waits_for, verify.elapsed) == (("code",), None)
    assert view.usage == Usage(input=14_300, output=1_000, calls=4)


def test_a_run_whose_owner_is_dead_is_shown_as_lost_and_so_are_its_running_tasks(store: SqliteStore) -> None:
    book = open_book(store, owner=DEAD)
    play(book)
    view = run_view(store, book.run.id)
    assert (view.row.state, view.shown_state, view.row.over) == (RunState.RUNNING, LOST, True)
    assert [task.shown_state for task in view.tasks] == ["completed", LOST, "needs_attention", "queued"]
    assert view.tasks[1].now == ""


def test_a_run_that_ended_is_never_lost(store: SqliteStore) -> None:
    book = open_book(store, owner=DEAD)
    for key in ("explore", "code", "security", "verify"):
        book.finish(book.start(key), NewResult(summary="done"))
    book.end(RunState.COMPLETED)
    assert run_view(store, book.run.id).shown_state == "completed"


def test_the_elapsed_time_of_a_lost_task_ends_with_its_last_sign_of_life(store: SqliteStore) -> None:
    book = open_book(store, owner=DEAD)
    play(book)
    code = run_view(store, book.run.id, now=9e12).tasks[1]
    assert code.elapsed is not None
    assert code.elapsed < 60


def test_rows_are_the_newest_first_and_bounded(store: SqliteStore) -> None:
    ids = [open_book(store, goal=f"goal {number}").run.id for number in range(3)]
    assert [row.id for row in run_rows(store, limit=2)] == [ids[2], ids[1]]


def test_the_document_of_a_run_is_json_with_whole_results(store: SqliteStore) -> None:
    book = open_book(store)
    play(book)
    long = "x" * 90_000
    book.finish(book.store.load_task(book.run.id, "code").attempt_id or "", NewResult(summary=long))
    store.send_message(book.run.id, sender="explore", recipient="operator", kind=MessageKind.RELAY, body=long)
    view = run_view(store, book.run.id)
    document = json.loads(json.dumps(run_document(store, view, view.tasks)))
    (letter,) = document["mail"]
    assert (letter["from"], letter["text"]) == ("explore", long)
    explore, code, security, verify = document["tasks"]
    assert explore["result"]["data"] == {"files": ["login.py"]}
    assert code["result"]["summary"] == long
    assert (security["result"], security["last_text"]) == (None, "I think it is fine.")
    assert verify["waits_for"] == []
    assert document["shown_state"] == "running"
    assert {artifact["name"] for artifact in document["artifacts"]} >= {"prompt-explore", "last-text"}


def test_what_is_too_long_for_a_document_is_left_out_whole_and_its_artifact_named(store: SqliteStore) -> None:
    book = open_book(store)
    play(book)
    result = NewResult(summary="s" * 2_000_000, data={"log": "d" * 3_000_000})
    book.finish(book.store.load_task(book.run.id, "code").attempt_id or "", result)
    view = run_view(store, book.run.id)
    document = run_document(store, view, view.tasks)
    assert len(json.dumps(document)) < 100_000
    shown = document["tasks"][1]["result"]
    assert (shown["summary"], shown["data"], shown["left_out"]) == (None, None, ["summary", "data"])
    assert len(store.read_artifact(shown["body"]["sha256"])) > 5_000_000


def test_results_come_with_the_names_of_their_tasks(store: SqliteStore) -> None:
    book = open_book(store)
    play(book)
    assert [(result.task.key, result.task.agent) for result in result_views(store, book.run.id)] == [
        ("explore", "explorer")
    ]
    assert {name.key for name in task_names(store, book.run.id).values()} == {
        "explore",
        "code",
        "security",
        "verify",
    }


def test_an_unknown_run_is_an_error_with_the_nearest_names(store: SqliteStore) -> None:
    open_book(store)
    with pytest.raises(UnknownName):
        run_view(store, "nothing-like-it")


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        ('{"path": "a.py", "limit": 3}', "a.py"),
        ('{"pattern": "def ", "glob": "*.py"}', "def "),
        ('{"cmd": "ls"}', "ls"),
        ('{"limit": 3}', ""),
        ('["a"]', ""),
        ('{"path": "cut of', ""),
    ],
)
def test_a_tool_call_is_told_by_the_argument_that_says_what_it_works_on(arguments: str, target: str) -> None:
    assert tool_target(arguments) == target
