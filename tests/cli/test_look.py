"""`runs`, `status`, `show`, `events` and `cancel` on a store that was written before."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app, run_app
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.records import ControlVerb, NewEvent, NewResult, ParentRef
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.store.sqlite import SqliteStore
from tests.ui.runs import DEAD, Book, open_book, play, project_in


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(project_in(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def book(store: SqliteStore) -> Book:
    made = open_book(store)
    play(made)
    return made


def crew(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(build_app(), [*words, "--project", str(folder)])


def crew_json(folder: Path, *words: str, code: int = 0) -> Any:
    done = crew(folder, *words, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_the_shape_of_a_list_of_runs_is_stable(tmp_path: Path, book: Book) -> None:
    (row,) = crew_json(tmp_path, "runs")["runs"]
    assert set(row) == {
        *("id", "goal", "team", "workflow", "cwd", "state", "shown_state", "cause", "background", "pid"),
        *("task_counts", "created_at", "started_at", "ended_at", "elapsed", "runtime", "runtime_note"),
        "imported",
    }
    assert row["task_counts"] == {"completed": 1, "needs_attention": 1, "queued": 1, "running": 1}


def test_the_shape_of_a_status_is_stable(tmp_path: Path, book: Book) -> None:
    status = crew_json(tmp_path, "status", book.run.id)
    assert {"usage", "tasks", "shown_state", "pid"} <= set(status)
    assert set(status["tasks"][0]) == {
        *("id", "key", "title", "role", "agent", "state", "shown_state", "cause", "optional", "depends_on"),
        *("waits_for", "attempts", "steps", "usage", "model", "now", "result_id", "summary"),
        *("last_text_artifact", "started_at", "ended_at", "elapsed", "sections", "hold"),
        *("tries", "retry_at"),
        *("retries", "model_errors"),
    }
    assert set(status["usage"]) == {"input", "output", "cached", "calls", "cost"}


def test_a_run_is_found_by_the_end_of_its_id_and_as_the_last_one(tmp_path: Path, book: Book) -> None:
    for name in ("last", book.run.id, book.run.id[-6:]):
        assert crew_json(tmp_path, "status", name)["id"] == book.run.id


def test_a_result_is_shown_whole(tmp_path: Path, book: Book) -> None:
    attempt = book.store.load_task(book.run.id, "code").attempt_id
    long = "finding\n" * 10_000
    book.finish(attempt or "", NewResult(summary=long))
    assert long in crew(tmp_path, "show", "last", "code").stdout
    assert crew_json(tmp_path, "show", "last", "code")["tasks"][0]["result"]["summary"] == long


def test_a_task_without_a_result_shows_why_and_what_its_model_said_last(tmp_path: Path, book: Book) -> None:
    text = crew(tmp_path, "show", "last", "security").stdout
    assert "no result; no_result: it never called submit_result" in text
    assert "I think it is fine." in text


def test_a_transcript_shows_who_said_what_and_which_tools_were_called(tmp_path: Path, book: Book) -> None:
    text = crew(tmp_path, "show", "last", "explore", "--transcript").stdout
    assert "Find the login code." in text
    assert 'calls read {"path": "login.py"}' in text
    assert "tool read\n1\tdef login(): ..." in text
    (task,) = crew_json(tmp_path, "show", "last", "explore", "--transcript")["tasks"]
    assert [entry["role"] for entry in task["attempts"][0]["transcript"]] == ["user", "assistant", "tool"]


def test_a_prompt_is_shown_as_it_was_sent(tmp_path: Path, book: Book) -> None:
    assert "You are explore." in crew(tmp_path, "show", "last", "explore", "--prompt").stdout
    assert "not started" in crew(tmp_path, "show", "last", "verify", "--prompt").stdout


def test_an_artifact_is_shown_by_the_beginning_of_its_hash(tmp_path: Path, book: Book) -> None:
    ref = book.store.put_artifact(book.run.id, "notes", b"all of it")
    assert crew(tmp_path, "show", "last", "--artifact", ref.sha256[:12]).stdout == "all of it\n"


def test_two_things_at_once_cannot_be_shown(tmp_path: Path, book: Book) -> None:
    assert crew(tmp_path, "show", "last", "--prompt", "--transcript").exit_code == 2


def test_events_come_in_order_and_from_a_number_on(tmp_path: Path, book: Book) -> None:
    events = crew_json(tmp_path, "events", "last")["events"]
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    assert events[0]["type"] == "run.created"
    later = crew_json(tmp_path, "events", "last", "--after", str(events[2]["seq"]))["events"]
    assert later == events[3:]
    assert set(events[0]) == {
        *("seq", "run_id", "at", "epoch", "type", "actor", "task_id", "task", "attempt_id", "cause", "data"),
    }


def test_events_are_read_piece_by_piece_with_a_cursor(tmp_path: Path, book: Book) -> None:
    whole = crew_json(tmp_path, "events", "last")
    assert (whole["more"], whole["next_seq"]) == (False, whole["events"][-1]["seq"])
    read: list[Any] = []
    after, more = 0, True
    while more:
        page = crew_json(tmp_path, "events", "last", "--after", str(after), "--limit", "5")
        assert 0 < len(page["events"]) <= 5
        read += page["events"]
        after, more = page["next_seq"], page["more"]
    assert read == whole["events"]
    beyond = crew_json(tmp_path, "events", "last", "--after", str(after), "--limit", "5")
    assert (beyond["events"], beyond["next_seq"], beyond["more"]) == ([], after, False)
    assert f"--after {whole['events'][4]['seq']} --limit 5" in crew(tmp_path, "events", "-n", "5").stdout
    assert crew(tmp_path, "events", "--limit", "5", "--follow").exit_code == 2


def test_every_event_shows_where_it_comes_from(tmp_path: Path, book: Book) -> None:
    told = crew_json(tmp_path, "events", "last")["events"]
    assert all(event["actor"] for event in told)
    assert {event["epoch"] for event in told} == {0, 1}
    assert all(event["attempt_id"] for event in told if event["type"].startswith(("session.", "result.")))
    lines = crew(tmp_path, "events", "last").stdout.splitlines()
    assert "by:operator epoch:0" in lines[0]
    started = next(event for event in told if event["type"] == "task.started")
    line = next(line for line in lines if line.startswith(str(started["seq"])))
    assert f"by:supervisor epoch:1 attempt:{started['attempt_id'][-6:]}" in line


def test_what_is_left_out_is_told_to_whoever_lists_or_follows(tmp_path: Path, book: Book) -> None:
    book.store.chatty_events = 0
    book.say(NewEvent(type="session.note", actor="code", data={"text": "much"}))
    attempt = book.store.load_task(book.run.id, "code").attempt_id
    book.finish(attempt or "", NewResult(summary="done"))
    told = crew_json(tmp_path, "events", "last")["events"]
    assert [event["data"]["events"] for event in told if event["type"] == "events.left_out"] == [1]
    cause = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
    verify = book.store.load_task(book.run.id, "verify")
    book.store.transition_task(book.lease, verify.id, TaskState.SKIPPED, actor="supervisor", cause=cause)
    book.end(RunState.FAILED, cause)
    followed = crew(tmp_path, "events", "last", "--follow").stdout
    assert "1 events up to number" in followed


def test_following_ends_with_the_run_and_tells_its_last_event(tmp_path: Path, book: Book) -> None:
    command = [sys.executable, "-m", "crew_plugin.cli", "events", "last", "--follow", "--json"]
    with subprocess.Popen(
        [*command, "--project", str(tmp_path)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as following:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        for key in ("code", "security", "verify"):
            task = book.store.load_task(book.run.id, key)
            attempt = task.attempt_id if key == "code" else None
            if key == "verify":
                attempt = book.start(key)
            if attempt:
                book.finish(attempt, NewResult(summary="done"))
        book.end(RunState.FAILED)
        rest = following.stdout.read().splitlines()
        assert following.wait(20) == 0
    assert first["type"] == "run.created"
    assert json.loads(rest[-1])["type"] == "run.failed"


def test_an_unknown_run_or_task_is_a_usage_error_with_the_known_names(tmp_path: Path, book: Book) -> None:
    unknown = crew(tmp_path, "show", "last", "explor")
    assert unknown.exit_code == 2
    assert "did you mean 'explore'?" in unknown.stderr
    error = crew_json(tmp_path, "status", "nothing-like-it", code=2)["error"]
    assert error["kind"] == "UnknownName"


def test_looking_at_a_project_without_runs_writes_nothing(tmp_path: Path) -> None:
    assert crew(tmp_path, "runs").stdout == "no runs yet\n"
    assert crew(tmp_path, "status").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_dead_supervisors_run_is_closed_as_lost_and_keeps_its_results(
    tmp_path: Path, store: SqliteStore
) -> None:
    lost = open_book(store, owner=DEAD)
    play(lost)
    assert "close it:   crew cancel" in crew(tmp_path, "status").stdout
    followed = crew(tmp_path, "events", "--follow")
    assert f"supervisor is gone; close it: crew cancel {lost.run.id}" in followed.stderr
    report = crew_json(tmp_path, "cancel", "last")
    assert (report["outcome"], report["run"]["state"]) == ("marked_lost", "failed")
    assert report["run"]["tasks"][0]["state"] == "completed"
    assert "Login is in login.py" in crew(tmp_path, "show", "last", "explore").stdout
    assert crew_json(tmp_path, "cancel", "last")["outcome"] == "already_ended"


def test_a_run_of_a_chat_session_is_cancelled_only_with_force(tmp_path: Path, store: SqliteStore) -> None:
    parent = ParentRef(host="bub", session="cli:local")
    run = open_book(store, parent=parent).run
    # In a process of its own: the run's supervisor is this one.
    command = [sys.executable, "-m", "crew_plugin.cli", "cancel", run.id, "--project", str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "cli:local" in refused.stderr
    assert f"crew cancel {run.id} --force" in refused.stderr
    assert store.pending_controls(run.id) == []
    unconfirmed = subprocess.run(
        [*command, "--force"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert unconfirmed.returncode == 2
    assert f"nothing was changed: this would stop run {run.id}" in unconfirmed.stderr
    assert "say --yes" in unconfirmed.stderr
    assert store.pending_controls(run.id) == []


def test_a_confirmed_and_forced_cancel_carries_its_intent(tmp_path: Path, store: SqliteStore) -> None:
    run = open_book(store, parent=ParentRef(host="bub", session="cli:local")).run
    command = [sys.executable, "-m", "crew_plugin.cli", "cancel", run.id, "--project", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--force", "--yes", "--intent", "its branch is gone"], stdout=subprocess.PIPE
    ) as asking:
        while not (asked := store.pending_controls(run.id)):
            assert asking.poll() is None
        asking.kill()
    assert asked[0].payload["message"] == "cancelled from the command line (intent: its branch is gone)"
    assert asked[0].payload["force"] is True


def test_a_supervisor_that_lives_is_asked(tmp_path: Path, book: Book) -> None:
    command = [sys.executable, "-m", "crew_plugin.cli", "cancel", "last", "code", "--reason", "enough"]
    with subprocess.Popen(
        [*command, "--project", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as asking:
        while not (asked := book.store.pending_controls(book.run.id)):
            assert asking.poll() is None
        (control,) = asked
        assert (control.verb, control.actor) == (ControlVerb.CANCEL, "operator")
        assert control.payload["message"] == "cancelled from the command line: enough"
        book.store.answer_control(book.lease, control.id, refused=None, actor="supervisor")
        out, _ = asking.communicate(timeout=20)
    assert asking.returncode == 0
    assert out.startswith(f"task code of run {book.run.id}: ")


def test_a_run_that_never_began_is_cancelled_without_anybody_to_ask(
    tmp_path: Path, store: SqliteStore
) -> None:
    from crew_plugin.models.records import NewRun, NewTask

    task = NewTask(key="a", title="", role="r", agent="a")
    run = store.create_run(
        NewRun(goal="g", team="t", workflow="w", cwd="/", spec="{}"), [task], actor="operator"
    )
    assert crew_json(tmp_path, "cancel", run.id)["outcome"] == "cancelled"


def test_closed_streams_are_no_error(tmp_path: Path, book: Book) -> None:
    command = f"{sys.executable} -m crew_plugin.cli runs --project {tmp_path} <&- >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_closes_early_is_no_error(tmp_path: Path, book: Book) -> None:
    done = subprocess.run(
        f"{sys.executable} -m crew_plugin.cli show last --transcript --project {tmp_path} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""


def test_mail_is_shown_whole_and_what_agents_write_to_people_stands_with_the_results(
    tmp_path: Path, book: Book
) -> None:
    long = "one line\n" + "and another " * 200
    for sender, recipient in (("operator", "explore"), ("explore", "operator")):
        kind = MessageKind.STEER if sender == "operator" else MessageKind.RELAY
        book.store.send_message(book.run.id, sender=sender, recipient=recipient, kind=kind, body=long)
    shown = crew(tmp_path, "show", "last", "--mail").stdout
    assert shown.count(f"    {long.splitlines()[1]}".rstrip()) == 2
    assert "explore -> operator (relay): shown with the results" in shown
    assert "operator -> explore (steer): waiting" in shown
    assert f"## explore wrote to you\n{long}" in crew(tmp_path, "show", "last").stdout


def test_an_error_keeps_its_exit_code_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = ["show", "nope", "--json", "--project", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "crew_plugin.cli", *words],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "crew: there is no run 'nope'; none exists yet\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nope --json", "No such command 'nope'."),
        ("show --bad --json", "No such option: --bad"),
        ("run --width x look --json", "Invalid value for '--width'"),
        ("run --json", "Missing argument '[TEAM] GOAL'."),
    ],
)
def test_a_line_that_is_not_understood_is_a_json_document_too(
    capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    assert run_app(line.split(), name="crew") == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["kind"] == "UsageError"
    assert error["message"].startswith(said)
    assert said in err


def test_a_store_of_a_newer_version_is_one_clear_line(tmp_path: Path, book: Book) -> None:
    import sqlite3
    from contextlib import closing

    book.store.close()
    with closing(sqlite3.connect(project_in(tmp_path).database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    done = crew(tmp_path, "runs")
    assert done.exit_code == 1
    assert done.stderr.startswith("crew: the store at ")
    assert "upgrade crew-plugin" in done.stderr
