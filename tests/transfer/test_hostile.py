"""Bundles that somebody tampered with: each is refused with its reason, and nothing of it is kept."""

import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app
from crew_plugin.models.records import NewResult
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.transfer.export import export_run
from tests.transfer.bundles import Parts, forge, full_store, project_in
from tests.ui.runs import open_book

Change = Callable[[Parts], None]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """The bundle of a run with results, long bodies and mail."""
    store = full_store(tmp_path / "here")
    path = tmp_path / "good.zip"
    export_run(store, store.list_runs()[-1].id, path, overwrite=False)
    store.close()
    return path


@pytest.fixture
def target(tmp_path: Path) -> Iterator[SqliteStore]:
    (tmp_path / "there").mkdir()
    store = SqliteStore.open(project_in(tmp_path / "there"))
    yield store
    store.close()


def brought(tmp_path: Path, bundle: Path) -> Result:
    words = ["import", str(bundle), "--project", str(tmp_path / "there")]
    return CliRunner().invoke(build_app(), words)


def assert_refused(tmp_path: Path, target: SqliteStore, bundle: Path, told: str) -> None:
    """One sentence, and no row, no file, nothing outside."""
    before = sorted(path for path in tmp_path.rglob("*") if ".crew" not in path.parts)
    done = brought(tmp_path, bundle)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert told in line
    assert len(line) < 600
    assert target.list_runs() == []
    assert target.last_seq() == 0
    state = tmp_path / "there" / ".crew" / "state"
    assert [path for path in (state / "artifacts").rglob("*") if path.is_file()] == []
    assert target._all("SELECT sha256 FROM body") == []  # pyright: ignore[reportPrivateUsage] - looks inside
    assert sorted(path for path in tmp_path.rglob("*") if ".crew" not in path.parts) == before


def test_the_forge_itself_makes_bundles_that_are_taken(
    tmp_path: Path, good: Path, target: SqliteStore
) -> None:
    done = brought(tmp_path, forge(good, tmp_path / "same.zip", lambda parts: None))
    assert done.exit_code == 0, done.output
    assert len(target.list_runs()) == 1


# --- what is no bundle, or too large ---------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is no zip file, or it was cut off"),
        (b"hello", "it is no zip file, or it was cut off"),
        (b"PK\x05\x06" + b"\0" * 18, "run.json is missing or damaged"),
        (b"x" * 100_001, "it has 100,001 bytes; `bundles.max_bytes` allows 100,000"),
        (b"PK\x06\x07" + b"\0" * 16 + b"PK\x05\x06" + b"\0" * 18, "a kind of zip file that no bundle is"),
        (
            b"PK\x05\x06" + b"\0" * 8 + (200_000_000).to_bytes(4, "little") + b"\0" * 6,
            "its list of entries is too long",
        ),
    ],
)
def test_what_is_no_bundle_is_refused(
    tmp_path: Path, target: SqliteStore, content: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREW_BUNDLES__MAX_BYTES", "100000")
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    assert_refused(tmp_path, target, path, told)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path, target: SqliteStore) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    assert_refused(tmp_path, target, tmp_path / "nowhere.zip", "there is no such file")
    assert_refused(tmp_path, target, tmp_path / "there", "it is no file")
    assert_refused(tmp_path, target, tmp_path / "pipe.zip", "it is no file")


def test_a_bundle_that_was_cut_off_or_changed_on_the_way_is_refused(
    tmp_path: Path, good: Path, target: SqliteStore
) -> None:
    content = good.read_bytes()
    cut, flipped = tmp_path / "cut.zip", tmp_path / "flipped.zip"
    cut.write_bytes(content[:-100])
    with zipfile.ZipFile(good) as archive:
        at = archive.getinfo("rows.jsonl").header_offset + 200
    flipped.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    assert_refused(tmp_path, target, cut, "it was cut off")
    assert_refused(tmp_path, target, flipped, "rows.jsonl is damaged")


def test_what_unpacks_to_more_than_is_allowed_is_refused_before_it_is_unpacked(
    tmp_path: Path, good: Path, target: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREW_BUNDLES__MAX_BYTES", "100000")
    bomb = forge(
        good, tmp_path / "bomb.zip", lambda parts: parts.put(next(iter(parts.bodies)), b"\0" * 5_000_000)
    )
    assert bomb.stat().st_size < 20_000
    assert_refused(tmp_path, target, bomb, "`bundles.max_bytes` allows 100,000")


def test_an_entry_that_unpacks_to_more_than_it_says_is_refused(
    tmp_path: Path, good: Path, target: SqliteStore
) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(good) as before, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in before.infolist():
            body = before.read(entry)
            more = b"\0" * 50_000_000 if entry.filename == "rows.jsonl" else b""
            archive.writestr(entry.filename, body + more)
            archive.getinfo(entry.filename).file_size = len(body)
    assert_refused(tmp_path, target, bomb, "rows.jsonl is damaged")


# --- entries ---------------------------------------------------------------------------------


def entry(name: str, *, mode: int = 0o600, kind: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    made.compress_type = kind
    return made


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (entry("../../evil.sh"), "it holds '../../evil.sh', which no bundle does"),
        (entry("/etc/cron.d/evil"), "it holds '/etc/cron.d/evil', which no bundle does"),
        (entry("bodies/../../evil"), "it holds 'bodies/../../evil', which no bundle does"),
        (entry("bodies/" + "a" * 64 + "/"), "which no bundle does"),
        (entry("bodies\\" + "a" * 64), "which no bundle does"),
        (entry("bodies/" + "A" * 64), "which no bundle does"),
        (entry("bodies/" + "a" * 64, mode=stat.S_IFLNK | 0o777), "is a link, or no file at all"),
        (entry("bodies/" + "a" * 64, mode=stat.S_IFIFO | 0o600), "is a link, or no file at all"),
        (entry("bodies/" + "a" * 64, kind=zipfile.ZIP_BZIP2), "is packed in a way that no bundle is"),
        (entry("bodies/" + "a" * 64), f"bodies/{'a' * 64} is there and not listed"),
    ],
)
def test_an_entry_that_belongs_to_no_bundle_is_refused(
    tmp_path: Path, good: Path, target: SqliteStore, made: zipfile.ZipInfo, told: str
) -> None:
    bad = forge(good, tmp_path / "bad.zip", lambda parts: parts.extra.append((made, b"x")))
    assert_refused(tmp_path, target, bad, told)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_stands_there_twice_is_refused(tmp_path: Path, good: Path, target: SqliteStore) -> None:
    bad = forge(good, tmp_path / "bad.zip", lambda parts: parts.extra.append((entry("run.json"), b"{}")))
    assert_refused(tmp_path, target, bad, "it holds 'run.json' twice")


def test_an_encrypted_entry_is_refused(tmp_path: Path, good: Path, target: SqliteStore) -> None:
    content = bytearray(good.read_bytes())
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(sign) + at] |= 1
    bad = tmp_path / "bad.zip"
    bad.write_bytes(content)
    assert_refused(tmp_path, target, bad, "is encrypted")


# --- the head ---------------------------------------------------------------------------------


def head(**changes: Any) -> Change:
    return lambda parts: parts.head.update(changes)


def without(name: str) -> Change:
    return lambda parts: parts.left_out.add(name)


def lies(change: Change) -> Change:
    """The head still says what it said before."""

    def made(parts: Parts) -> None:
        parts.honest = False
        change(parts)

    return made


def other_body(parts: Parts) -> None:
    name = next(iter(parts.bodies))
    parts.bodies[name] = b"x" * len(parts.bodies[name])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("run.json"), "run.json is missing or damaged"),
        (without("rows.jsonl"), "rows.jsonl is listed and missing"),
        (head(version=2), "it has version 2 of the format, and 1 is known; upgrade crew-plugin"),
        (head(version=0), "run.json: version"),
        (head(format="tar"), "run.json: format"),
        (head(surprise=1), "run.json: surprise: Extra inputs are not permitted"),
        (head(run_id="run_../../../x"), "run.json: run_id"),
        (head(run_id="run_00000000000000"), "its head tells of another run than its rows"),
        (head(state="completed"), "its head tells of another run than its rows"),
        (head(made_by="x" * 81), "run.json: made_by"),
        (lies(lambda parts: parts.row("task").update(title="other")), "rows.jsonl has"),
        (lies(lambda parts: parts.row("task").update(title="explorE")), "its hash differs"),
        (lies(other_body), "is not what its name says: its hash differs"),
    ],
)
def test_a_head_that_is_wrong_or_lies_is_refused(
    tmp_path: Path, good: Path, target: SqliteStore, change: Change, told: str
) -> None:
    assert_refused(tmp_path, target, forge(good, tmp_path / "bad.zip", change), told)


def test_a_head_of_brackets_is_refused(tmp_path: Path, good: Path, target: SqliteStore) -> None:
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("rows.jsonl", "")
        archive.writestr("run.json", "[" * 1_000_000)
    assert_refused(tmp_path, target, bad, "run.json: Invalid JSON")


# --- rows -------------------------------------------------------------------------------------


def row(table: str, n: int = 0, **changes: Any) -> Change:
    return lambda parts: parts.row(table, n).update(changes)


def renamed(table: str, to: str) -> Change:
    return lambda parts: parts.row(table).update({"table": to})


def drop(table: str) -> Change:
    def made(parts: Parts) -> None:
        parts.rows = [each for each in parts.rows if each["table"] != table]

    return made


def doubled(table: str, n: int = 0, **changes: Any) -> Change:
    return lambda parts: parts.rows.append({**parts.row(table, n), **changes})


def body_of(table: str, body: bytes) -> Change:
    """Another body, under its right hash."""
    return lambda parts: parts.put(json.loads(parts.row(table)["body"])[0], body)


def entry_body(body: bytes) -> Change:
    def made(parts: Parts) -> None:
        long = next(each for each in parts.rows if each["table"] == "transcript" and each["body"])
        parts.put(long["body"], body)

    return made


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (row("task", surprise=1), "surprise: Extra inputs are not permitted"),
        (renamed("task", "forgotten"), "does not match any of the expected tags"),
        (row("task", id="task_../../evil"), "task.id: String should match pattern"),
        (row("task", key="../../evil"), "task.key: String should match pattern"),
        (row("task", key="a\x1b[2Jb"), "task.key: String should match pattern"),
        (row("task", state="asleep"), "task.state: Input should be"),
        (row("task", position="1"), "task.position: Input should be a valid integer"),
        (row("task", position=-1), "task.position: Input should be greater than or equal to 0"),
        (row("task", position=2**70), "task.position: Input should be less than"),
        (row("task", spec="[" * 100_000), "it is nested too deeply"),
        (row("task", cause='["x"]'), "Field required"),
        (row("task", position=1), "its rows contradict each other: UNIQUE constraint failed"),
        (row("run", state="running", ended_at=None), "its head tells of another run"),
        (row("event", type="run.exploded"), "there is no event 'run.exploded'"),
        (row("event", data="[1]"), "Input should be a valid dictionary"),
        (row("event", at=float("1e300")), "event.at: Input should be less than"),
        (row("transcript", data='{"tool_calls": [1]}'), "tool_calls.0"),
        (row("transcript", body="a" * 64), "an entry has either content and data, or a body"),
        (row("transcript", role="root"), "transcript.role"),
        (row("artifact", sha256="../../../etc/passwd"), "artifact.sha256: String should match pattern"),
        (row("artifact", size=1), "has no body, or one of another size"),
        (row("artifact", removed_at=5.0), "nothing refers to the body"),
        (row("result", body=json.dumps(["a" * 64, 1, "x", "y", None, None])), "is no artifact of the run"),
        (row("run", team="a\x1b[2J"), "run.team: String should match pattern"),
        (row("message", run_id="run_00000000000000"), "refers to 'run_00000000000000', which is not in"),
        (row("attempt", result_id="res_00000000000000"), "which is not in the bundle"),
        (row("attempt", session_id="ses_00000000000000"), "which is not in the bundle"),
        (row("result", attempt_id="att_00000000000000"), "which is not in the bundle"),
        (doubled("run"), "its first row is not its one run"),
        (doubled("task"), "its rows contradict each other: UNIQUE constraint failed"),
        (drop("run"), "its first row is not its one run"),
        (drop("result"), "which is not in the bundle"),
        (drop("artifact"), "nothing refers to the body"),
        (row("attempt", 1, result_id=None), "task 'explore' is completed and has no result"),
        (row("result", error="it broke"), "task 'explore' is completed and has no result"),
        (row("task", 2, state="running"), "its run is failed, and task 'verify' is running"),
        (row("attempt", state="running", ended_at=None), "has not ended"),
        (row("attempt", state="running"), "is running and has ended"),
        (body_of("result", b"no JSON"), "Expecting value"),
        (body_of("result", b'{"data": 1}'), "summary: Field required"),
        (body_of("result", b'{"summary": 1, "data": 1}'), "summary: Input should be a valid string"),
        (body_of("result", b"[" * 100_000), "it is nested too deeply"),
        (entry_body(b'[1, {"tool_calls": 2}]'), "Input should be a valid string"),
        (entry_body(b"{}"), "Input should be a valid tuple"),
        (row("run", team=None), "run.team: Input should be a valid string"),
    ],
)
def test_a_row_that_is_wrong_is_refused(
    tmp_path: Path, good: Path, target: SqliteStore, change: Change, told: str
) -> None:
    assert_refused(tmp_path, target, forge(good, tmp_path / "bad.zip", change), told)


def test_what_is_well_formed_and_still_cannot_be_shown_is_refused(
    tmp_path: Path, good: Path, target: SqliteStore
) -> None:
    def change(parts: Parts) -> None:
        parts.rows.append({**parts.row("event"), "type": "session.woken", "data": '{"by": 5}'})

    bad = forge(good, tmp_path / "bad.zip", change)
    assert_refused(tmp_path, target, bad, "it cannot be read back (TypeError")


def test_a_row_cannot_be_hung_onto_another_run_that_is_here(
    tmp_path: Path, good: Path, target: SqliteStore
) -> None:
    book = open_book(target)
    attempt = book.start("explore")
    session = target.load_attempt(attempt).session_id
    book.finish(attempt, NewResult(summary="mine"))
    events = target.last_seq()

    for change in (
        row("transcript", session_id=session, seq=9),
        row("section", attempt_id=attempt),
        row("tool_call", attempt_id=attempt),
        row("message", run_id=book.run.id),
        row("result", attempt_id=attempt),
    ):
        bad = forge(good, tmp_path / "bad.zip", change)
        done = brought(tmp_path, bad)
        assert done.exit_code == 2
        assert "which is not in the bundle" in done.stderr

    assert [run.id for run in target.list_runs()] == [book.run.id]
    assert target.last_seq() == events
    assert target.read_transcript(session) == []
    assert target.list_sections(attempt) == []


def test_a_bundle_takes_no_ids_of_rows_that_are_here(tmp_path: Path, good: Path, target: SqliteStore) -> None:
    book = open_book(target)
    task = target.load_task(book.run.id, "explore")

    def change(parts: Parts) -> None:
        old = parts.row("task")["id"]
        parts.rows = json.loads(json.dumps(parts.rows).replace(old, task.id))

    done = brought(tmp_path, forge(good, tmp_path / "bad.zip", change))

    assert done.exit_code == 2
    assert "its rows contradict each other: UNIQUE constraint failed: task.id" in done.stderr
    assert target.load_task(book.run.id, "explore") == task
    assert len(target.list_runs()) == 1


def test_words_of_an_imported_run_cannot_steer_a_terminal(
    tmp_path: Path, good: Path, target: SqliteStore
) -> None:
    def change(parts: Parts) -> None:
        parts.row("run")["goal"] = "\x1b[2Jgone"
        parts.row("task")["title"] = "\x1b]0;owned\x07"
        parts.row("run")["cause"] = json.dumps(["model_error", "\x1b[31mred", None])

    bundle = forge(good, tmp_path / "\x1b[2J.zip", change)
    done = brought(tmp_path, bundle)
    assert done.exit_code == 0, done.output
    for words in (["status", "last"], ["runs"], ["show", "last"], ["events", "last"]):
        shown = CliRunner().invoke(build_app(), [*words, "--project", str(tmp_path / "there")])
        assert shown.exit_code == 0
        assert "\x1b" not in shown.stdout
