"""A run that is exported in one project and imported in another is all there, and never goes on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app
from crew_plugin.errors import NotAllowed
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.records import DeadLetterState, ParentRef
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL, RunState
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.transfer.export import dumped
from crew_plugin.transfer.format import LINE, Line
from tests.cli.test_deadletters import given_up
from tests.store.frozen_store import contents
from tests.transfer.bundles import full_store, project_in

CHAT = ParentRef(host="bub", session="chat", route={"channel": "cli"})


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SqliteStore]:
    store = full_store(tmp_path / "here")
    yield store
    store.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[SqliteStore]:
    (tmp_path / "there").mkdir()
    store = SqliteStore.open(project_in(tmp_path / "there"))
    yield store
    store.close()


def crew(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(build_app(), [*words, "--project", str(folder)])


def carried(tmp_path: Path, run_id: str, *words: str) -> Result:
    """The run goes from `here` to `there`."""
    bundle = tmp_path / "run.zip"
    exported = crew(tmp_path / "here", "export", run_id, "--out", str(bundle), "--overwrite")
    assert exported.exit_code == 0, exported.output
    return crew(tmp_path / "there", "import", str(bundle), *words)


def run_ids(store: SqliteStore) -> list[str]:
    """The failed one, the one with questions, and the lost one."""
    return [run.id for run in reversed(store.list_runs())]


def of_run(store: SqliteStore, run_id: str) -> dict[str, Any]:
    """All that a store gives to its readers of one run, but what stays in its project."""
    found: dict[str, Any]
    (found,) = (run for run in contents(store)["runs"] if run["record"]["id"] == run_id)
    for name in ("parent", "imported", "renewals", "owner"):
        found["record"].pop(name, None)
    del found["deliveries"], found["pending"]
    for task in found["tasks"]:
        for attempt in task["attempts"]:
            del attempt["session"]["host_session"]
    for event in found["events"]:
        del event["seq"]
    return found


def test_all_that_can_be_read_of_an_ended_run_is_the_same_in_another_project(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    run_id = run_ids(source)[0]

    done = carried(tmp_path, run_id)

    assert done.exit_code == 0, done.output
    before, after = of_run(source, run_id), of_run(target, run_id)
    assert after["events"].pop()["type"] == "run.imported"
    assert after == before
    for words in ((), ("explore", "--transcript"), ("--prompt",), ("--mail",)):
        here, there = (crew(tmp_path / folder, "show", run_id, *words) for folder in ("here", "there"))
        assert here.exit_code == there.exit_code == 0
        told = [line for line in there.stdout.splitlines() if not line.startswith("imported ")]
        assert told == here.stdout.splitlines()
    documents = [
        json.loads(crew(tmp_path / folder, "show", run_id, "--json").stdout) for folder in ("here", "there")
    ]
    assert [document.pop("imported") is None for document in documents] == [True, False]
    assert documents[0] == documents[1]


def test_where_an_imported_run_came_from_is_shown(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    run_id = run_ids(source)[0]
    carried(tmp_path, run_id)

    status = crew(tmp_path / "there", "status", run_id).stdout
    document = json.loads(crew(tmp_path / "there", "status", run_id, "--json").stdout)["imported"]
    listed = crew(tmp_path / "there", "runs").stdout

    assert "by operator from run.zip, exported" in status
    assert "when it was failed" in status
    assert (document["source"], document["original_id"], document["state"]) == ("run.zip", run_id, "failed")
    assert "imported: look at ünïcode" in listed


def test_a_run_that_goes_on_is_exported_as_it_stands_and_ended_where_it_is_imported(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    for run_id in run_ids(source)[1:]:
        told = crew(tmp_path / "here", "export", run_id, "--out", str(tmp_path / "x.zip"), "--overwrite")
        done = carried(tmp_path, run_id)

        assert "running, as it stood at" in told.stdout
        assert "it had not ended when it was exported, so these tasks were ended here" in done.stdout
        run = target.load_run(run_id)
        assert (run.state, run.owner) == (RunState.FAILED, None)
        assert run.cause is not None
        assert run.cause.code is CauseCode.IMPORTED
        assert {task.state for task in target.load_tasks(run_id)} <= TASK_TERMINAL
        assert target.open_attempts(run_id) == []
        assert target.list_questions(run_id, only_open=True) == []
        assert source.load_run(run_id).state is RunState.RUNNING
        assert crew(tmp_path / "there", "status", run_id).stdout.splitlines()[0].split()[2] == "failed"


def test_what_was_not_kept_of_a_run_is_told_where_it_is_imported_too(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    run_id = run_ids(source)[0]
    source.thin_run(run_id, actor="operator", because="it is old")

    done = carried(tmp_path, run_id)

    assert done.exit_code == 0, done.output
    before, after = (
        [(event.type, event.actor, dict(event.data)) for event in store.tail(run_id)]
        for store in (source, target)
    )
    assert after.pop()[0] == "run.imported"
    assert after == before
    (gap,) = [data for kind, _, data in after if kind == "events.left_out"]
    assert gap["because"] == "it is old"
    assert gap["events"] > 0
    refs = target.list_artifacts(run_id)
    assert any(ref.removed for ref in refs)
    assert all(target.read_artifact(ref.sha256) for ref in refs if not ref.removed)


def test_an_imported_run_is_neither_retried_nor_gone_on_with(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    for run_id in run_ids(source):
        carried(tmp_path, run_id)
        before = target.tail(None, limit=10_000)

        for words in (("retry",), ("resume",), ("cancel",), ("steer", "explore", "hurry"), ("resize", "2")):
            done = crew(tmp_path / "there", words[0], run_id, *words[1:])
            assert "Traceback" not in done.output
            assert target.load_run(run_id).state in RUN_TERMINAL
        go_on = crew(tmp_path / "there", "resume", run_id, "go on")
        assert go_on.exit_code == 2
        assert "was imported: it can be read, and none of its agents is gone on with" in go_on.stderr
        with pytest.raises(NotAllowed, match="was imported: it can be read, and nothing of it is tried"):
            target.reopen_run(run_id, [], actor="operator")
        assert target.tail(None, limit=10_000) == before


def test_an_imported_run_is_owed_to_nobody_and_found_by_no_host(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    run_id = run_ids(source)[0]
    assert source.load_run(run_id).parent == CHAT
    carried(tmp_path, run_id)

    assert target.load_run(run_id).parent is None
    assert target.list_deliveries() == []
    assert target.list_runs(parent=CHAT) == []
    assert target.list_started(run_id) == []
    assert "nothing waits for anybody" in crew(tmp_path / "there", "inbox").stdout


def test_dead_letters_come_along_closed(tmp_path: Path, target: SqliteStore) -> None:
    (tmp_path / "here").mkdir()
    store = SqliteStore.open(project_in(tmp_path / "here"))
    book = given_up(store)
    store.close()

    carried(tmp_path, book.run.id)

    (letter,) = target.list_dead_letters(book.run.id)
    assert (letter.key, letter.state) == ("explore", DeadLetterState.DROPPED)
    assert crew(tmp_path / "there", "deadletters").stdout.strip() == (
        "no task waits for somebody to try it again"
    )


def test_the_same_content_twice_changes_nothing(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    for run_id in run_ids(source):
        carried(tmp_path, run_id)
        before = target.tail(None, limit=10_000)

        again = carried(tmp_path, run_id)
        at_home = crew(tmp_path / "here", "import", str(tmp_path / "run.zip"))

        for done in (again, at_home):
            assert done.exit_code == 0
            assert "is here already, with the same content; nothing was changed" in done.stdout
        assert target.tail(None, limit=10_000) == before


def test_other_content_under_a_known_id_is_refused_unless_it_gets_an_id_of_its_own(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    run_id = run_ids(source)[0]
    carried(tmp_path, run_id)
    source.send_message(run_id, sender="a", recipient="parent", kind=MessageKind.MESSAGE, body="one more")

    refused = carried(tmp_path, run_id)
    renamed = carried(tmp_path, run_id, "--as-new", "--json")

    assert refused.exit_code == 2
    assert "is here already, with other content; nothing was changed; say as-new" in refused.stderr
    new_id = json.loads(renamed.stdout)["run_id"]
    assert new_id != run_id
    before, after = of_run(source, run_id), of_run(target, new_id)
    after["events"].pop()
    text = json.dumps(after)
    for old in [run_id, *(task["record"]["id"] for task in before["tasks"])]:
        assert old not in text
    assert [task["record"]["state"] for task in after["tasks"]] == [
        task["record"]["state"] for task in before["tasks"]
    ]
    assert after["bodies"] == before["bodies"]
    shown = [crew(tmp_path / "there", "show", each, "explore").stdout for each in (run_id, new_id)]
    assert shown[0].splitlines()[4:] == shown[1].splitlines()[4:]
    (about,) = (target.load_run(new_id).imported,)
    assert about is not None
    assert about.original_id == run_id


def test_a_forgotten_run_does_not_come_back_under_its_id(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    run_id = run_ids(source)[0]
    carried(tmp_path, run_id)
    assert crew(tmp_path / "there", "forget", run_id, "--yes").exit_code == 0

    refused = carried(tmp_path, run_id)
    renamed = carried(tmp_path, run_id, "--as-new")

    assert refused.exit_code == 2
    assert "was forgotten on" in refused.stderr
    assert "say as-new to import it under another id" in refused.stderr
    assert renamed.exit_code == 0


def test_an_imported_run_can_be_carried_on_to_a_third_project(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    run_id = run_ids(source)[0]
    carried(tmp_path, run_id)
    shutil.rmtree(tmp_path / "here")
    (tmp_path / "there").rename(tmp_path / "here")
    (tmp_path / "there").mkdir()

    done = carried(tmp_path, run_id)

    assert done.exit_code == 0, done.output
    assert "a line of a long body" in crew(tmp_path / "there", "show", run_id, "explore").stdout


def test_pruning_counts_from_the_day_on_which_a_run_was_imported(
    tmp_path: Path, source: SqliteStore, target: SqliteStore
) -> None:
    run_id = run_ids(source)[0]
    source._execute("UPDATE run SET ended_at = 1000")  # pyright: ignore[reportPrivateUsage] - sets the clock back
    carried(tmp_path, run_id)

    kept = crew(tmp_path / "there", "prune", "--days", "1", "--yes")

    assert "no ended run is older" in kept.stdout
    assert target.load_run(run_id).id == run_id


def test_every_column_that_goes_along_has_its_check(source: SqliteStore) -> None:
    rows = [line for run_id in run_ids(source) for line in dumped(source, run_id).lines.splitlines()]
    assert {json.loads(row)["table"] for row in rows} == {
        *("run", "task", "attempt", "session", "result", "section", "tool_call", "transcript", "message"),
        *("question", "artifact", "event"),
    }
    for row in rows:
        LINE.validate_json(row)


def test_every_table_goes_along_or_stays_on_purpose(tmp_path: Path, source: SqliteStore) -> None:
    # Bodies go along as entries of their own, gaps as the events that tell of them.
    stays = {"outbox", "control", "forgotten", "body", "gap", "upkeep"}
    rows = source._all(  # pyright: ignore[reportPrivateUsage] - looks at the schema
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    tables = {get_args(branch.model_fields["table"].annotation)[0] for branch in get_args(Line)}
    assert {row["name"] for row in rows} - stays == tables


def test_a_file_that_is_there_is_not_replaced_by_accident(tmp_path: Path, source: SqliteStore) -> None:
    there = tmp_path / "mine.zip"
    there.write_text("mine", encoding="utf-8")

    refused = crew(tmp_path / "here", "export", "last", "--out", str(there))
    nowhere = crew(tmp_path / "here", "export", "last", "--out", str(tmp_path / "no" / "where.zip"))
    done = crew(tmp_path / "here", "export", "last", "--out", str(tmp_path), "--json")

    assert refused.exit_code == nowhere.exit_code == 2
    assert "unless you say overwrite" in refused.stderr
    assert there.read_text(encoding="utf-8") == "mine"
    assert "cannot be written" in nowhere.stderr
    written = Path(json.loads(done.stdout)["file"])
    assert written.parent == tmp_path
    assert written.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
