"""`mail`: boxes, acknowledging, giving again, repair."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind, MessageRecord, MessageState
from crew_plugin.models.records import Owner, ParentRef, TranscriptEntry
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.store.sqlite import SqliteStore
from tests.contracts.run_store import complete
from tests.store.fold import assert_events_tell_the_rows
from tests.ui.runs import Book, open_book, project_in

GONE = Owner(pid=1_999_999, started=1.0, boot_id="another boot")
CAUSE = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore.open(project_in(tmp_path))) as opened:
        yield opened


def say(book: Book, to: str, text: str = "hello", *, sender: str = "operator", **more: Any) -> MessageRecord:
    kind = more.pop("kind", MessageKind.MESSAGE)
    return book.store.send_message(book.run.id, sender=sender, recipient=to, kind=kind, body=text, **more)


def crew(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(build_app(), ["mail", "last", *words, "--project", str(folder)])


def mail_of(result: Result) -> list[tuple[str, str]]:
    assert result.exit_code == 0, result.output
    return [(each["text"], each["state"]) for each in json.loads(result.stdout)["mail"]]


def state_of(store: SqliteStore, message: MessageRecord) -> MessageState:
    return store.load_message(message.id).state


def events_of(book: Book) -> list[tuple[str, str]]:
    return [(event.type, event.actor) for event in book.store.tail(book.run.id)]


def test_each_task_has_an_inbox_and_an_outbox(tmp_path: Path, store: SqliteStore) -> None:
    book = open_book(store)
    say(book, "code", "to code", sender="explore")
    say(book, "explore", "back", sender="code")
    say(book, "verify", "else")

    assert mail_of(crew(tmp_path, "code", "--box", "inbox", "--json")) == [("to code", "accepted")]
    assert mail_of(crew(tmp_path, "code", "--box", "outbox", "--json")) == [("back", "accepted")]
    assert len(mail_of(crew(tmp_path, "code", "--json"))) == 2
    assert len(mail_of(crew(tmp_path, "--json"))) == 3
    assert "explore -> code: waiting" in crew(tmp_path, "code").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nobody",), "mailbox 'nobody'"),
        (("code", "--box", "bin"), "inbox or outbox"),
        (("--box", "inbox"), "the task whose box it is"),
        (("--ack", "all"), "the task whose inbox it is"),
        (("--ack", "msg_1", "--repair"), "one of them at once"),
        (("--dry-run",), "used with --repair"),
        (("--message", "msg_1"), "message 'msg_1'"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    tmp_path: Path, store: SqliteStore, words: tuple[str, ...], says: str
) -> None:
    say(open_book(store), "code")

    refused = crew(tmp_path, *words)

    assert refused.exit_code == 2
    assert says in refused.stderr


def test_what_is_acknowledged_is_given_to_nobody_and_once_is_enough(
    tmp_path: Path, store: SqliteStore
) -> None:
    book = open_book(store)
    one, two, other = say(book, "code", "one"), say(book, "code", "two"), say(book, "verify")

    assert mail_of(crew(tmp_path, "--ack", one.id, "--json")) == [("one", "read")]
    assert mail_of(crew(tmp_path, "code", "--ack", "all", "--json")) == [("two", "read")]
    assert mail_of(crew(tmp_path, "--ack", one.id, "--json")) == [("one", "read")]

    assert store.take_messages(book.run.id, "code") == []
    assert [state_of(store, each) for each in (one, two, other)] == ["read", "read", "accepted"]
    assert events_of(book).count(("message.acknowledged", "operator")) == 2
    assert_events_tell_the_rows(store)


def test_mail_that_a_lost_session_never_read_is_given_again_once(tmp_path: Path, store: SqliteStore) -> None:
    book = open_book(store, owner=GONE)
    attempt = book.start("code")
    kept, lost = say(book, "code", "kept"), say(book, "code", "lost")
    store.take_messages(book.run.id, "code")
    book.talk(attempt, TranscriptEntry(seq=0, role="user", content="kept", data={"messages": [kept.id]}))

    assert mail_of(crew(tmp_path, "--replay", "all", "--json")) == [("lost", "accepted")]
    assert mail_of(crew(tmp_path, "--replay", "all", "--json")) == []
    refused = crew(tmp_path, "--replay", kept.id)

    assert refused.exit_code == 2
    assert "has it in its conversation" in refused.stderr
    assert [message.id for message in store.take_messages(book.run.id, "code")] == [lost.id]
    assert ("message.returned", "operator") in events_of(book)
    assert_events_tell_the_rows(store)


def test_mail_of_a_session_that_is_at_work_is_not_doubled(tmp_path: Path, store: SqliteStore) -> None:
    book = open_book(store)
    book.start("code")
    message = say(book, "code")
    store.take_messages(book.run.id, "code")

    refused = crew(tmp_path, "--replay", message.id)

    assert refused.exit_code == 2
    assert "is at work and was given it" in refused.stderr
    assert crew(tmp_path, "--repair").stdout == "nothing is wrong with the mail of this run\n"
    assert state_of(store, message) == MessageState.DELIVERED


def test_repair_settles_what_cannot_move_and_finds_nothing_the_second_time(
    tmp_path: Path, store: SqliteStore
) -> None:
    book = open_book(store, owner=GONE)
    complete(store, book.lease, "explore")
    attempt = book.start("code")
    kept, stuck = say(book, "code", "kept"), say(book, "code", "stuck")
    store.take_messages(book.run.id, "code")
    book.talk(attempt, TranscriptEntry(seq=0, role="user", content="kept", data={"messages": [kept.id]}))
    ended, late = say(book, "explore"), say(book, "verify", expires_at=1.0)
    nowhere, fine, mine = say(book, "nobody"), say(book, "security"), say(book, "parent", sender="code")
    every = (kept, stuck, ended, late, nowhere, fine, mine)
    before = [state_of(store, each) for each in every]

    looked = crew(tmp_path, "--repair", "--dry-run")
    assert [state_of(store, each) for each in every] == before
    done = json.loads(crew(tmp_path, "--repair", "--json").stdout)

    assert "explore: its task is completed; it was waiting and would be given up" in looked.stdout
    assert [finding["becomes"] for finding in done["findings"]] == [
        "read",
        "accepted",
        "dead",
        "expired",
        "dead",
    ]
    assert [state_of(store, each) for each in every] == [
        "read",
        "accepted",
        "dead",
        "expired",
        "dead",
        "accepted",
        "accepted",
    ]
    assert store.load_message(nowhere.id).reason == "the run has no task 'nobody'"
    assert json.loads(crew(tmp_path, "--repair", "--json").stdout)["findings"] == []
    assert events_of(book).count(("mail.repaired", "operator")) == 1
    assert_events_tell_the_rows(store)


def test_mail_of_an_ended_run_is_settled(tmp_path: Path, store: SqliteStore) -> None:
    book = open_book(store)
    message = say(book, "verify")
    for key in ("explore", "code", "security", "verify"):
        task = store.load_task(book.run.id, key)
        store.transition_task(book.lease, task.id, TaskState.CANCELLED, actor="supervisor", cause=CAUSE)
    book.end(RunState.CANCELLED, CAUSE)

    crew(tmp_path, "--repair")

    assert state_of(store, message) == MessageState.DEAD
    refused = crew(tmp_path, "--ack", message.id)
    assert refused.exit_code != 0
    assert message.id in refused.stderr


def test_the_mail_of_a_chats_run_is_changed_only_by_force(tmp_path: Path, store: SqliteStore) -> None:
    book = open_book(store, parent=ParentRef(host="bub", session="chat", route={}))
    message = say(book, "code")

    refused = crew(tmp_path, "--ack", message.id)

    assert refused.exit_code == 2
    assert "force" in refused.stderr
    assert state_of(store, message) == MessageState.ACCEPTED
    assert mail_of(crew(tmp_path, "--ack", message.id, "--force", "--json")) == [("hello", "read")]
