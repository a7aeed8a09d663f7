"""Writing a checked bundle down: all of it or nothing, and never as something that goes on."""

import json
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crew_plugin.engine.settle import close_run
from crew_plugin.errors import BadBundle, CrewError, Forgotten, NotAllowed, OperatorMustAct, UnknownName
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.ids import new_id
from crew_plugin.models.records import DeadLetterState, ImportRecord, Owner, RunRecord
from crew_plugin.models.states import ATTEMPT_TERMINAL, RUN_TERMINAL, TASK_TERMINAL, RunState, TaskState
from crew_plugin.store.port import Column, RunStore
from crew_plugin.transfer.archive import Archive, open_archive
from crew_plugin.transfer.export import dumped
from crew_plugin.transfer.format import (
    ArtifactLine,
    AttemptLine,
    Line,
    ResultLine,
    RunLine,
    SectionLine,
    SessionLine,
    TaskLine,
    TranscriptLine,
    check_entry,
    check_result,
    columns_of,
)
from crew_plugin.transfer.readback import read_back

__all__ = ["Bundle", "Imported", "checked_bundle", "import_bundle", "write_down"]

_ID: Final = re.compile(r"\b[a-z]{2,8}_[0-9a-z]{14}\b")
_REFERS: Final = frozenset(
    {
        *("id", "run_id", "task_id", "attempt_id", "session_id", "result_id", "reply_to"),
        *("last_text", "prompt", "artifacts", "data"),
    }
)
"""Columns in which ids stand. What people and models wrote stays as it was written."""

_LINKS: Final = ("run_id", "task_id", "attempt_id", "session_id", "result_id")

Rows = list[tuple[str, dict[str, Column]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that was checked, and is open."""

    archive: Archive
    rows: Rows
    bodies: list[str]
    """Their hashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came of a bundle."""

    run: RunRecord
    already: bool = False
    """The same content was here; nothing was changed."""
    closed: tuple[str, ...] = ()
    """Tasks that had not ended where they came from."""

    def as_json(self) -> dict[str, Any]:
        """The stable shape that `--json` prints."""
        return {
            "run_id": self.run.id,
            "state": str(self.run.state),
            "already": self.already,
            "closed": list(self.closed),
        }


def import_bundle(
    store: RunStore, path: Path, *, as_new: bool, actor: str, me: Owner, most_bytes: int
) -> Imported:
    """Check a bundle and write its run down. Raises as `checked_bundle` and `write_down`."""
    with checked_bundle(path, most_bytes=most_bytes) as bundle:
        return write_down(store, bundle, as_new=as_new, actor=actor, me=me)


@contextmanager
def checked_bundle(path: Path, *, most_bytes: int) -> Generator[Bundle]:
    """Open a bundle and check all of it. Needs no store. Blocks. Raises `BadBundle`."""
    with open_archive(path, most_bytes=most_bytes) as archive:
        lines = archive.rows()
        bodies = _checked(archive, lines)
        yield Bundle(archive=archive, rows=[(line.table, columns_of(line)) for line in lines], bodies=bodies)


def write_down(store: RunStore, bundle: Bundle, *, as_new: bool, actor: str, me: Owner) -> Imported:
    """Write the run of a bundle down, to be read. One whose id is here with the same content changes
    nothing.

    Raises:
        BadBundle: it cannot be read back.
        NotAllowed: another run has its id, or had it and was forgotten, and `as_new` was not said.
    """
    here = None if as_new else _found_here(store, bundle.archive)
    if here is not None:
        return Imported(run=here, already=True)
    rows = _renamed(bundle.rows) if as_new else bundle.rows
    try:
        with store.transaction():
            return _written(store, bundle.archive, rows, bundle.bodies, actor=actor, me=me)
    except BaseException:
        # Long bodies are files: those that came with it belong to nothing.
        store.sweep_bodies(bundle.bodies)
        raise


def _found_here(store: RunStore, archive: Archive) -> RunRecord | None:
    """The run, if it is here with the same content. Raises `NotAllowed` if it is not the same."""
    run_id = archive.head.run_id
    try:
        run = store.load_run(run_id)
    except Forgotten as gone:
        raise NotAllowed(f"{gone}; say as-new to import it under another id") from None
    except UnknownName:
        return None
    digest = archive.head.rows.sha256
    if run.imported is not None:
        same = run.imported.digest == digest
    else:
        with store.transaction():
            same = dumped(store, run.id).digest == digest
    if same:
        return run
    raise NotAllowed(
        f"run {run_id} is here already, with other content; nothing was changed; say as-new to import this "
        "one under another id"
    )


def _written(
    store: RunStore,
    archive: Archive,
    rows: Sequence[tuple[str, Mapping[str, Column]]],
    bodies: Sequence[str],
    *,
    actor: str,
    me: Owner,
) -> Imported:
    head = archive.head
    run_id = str(rows[0][1]["id"])
    store.restore_run(rows, bodies, archive.body)
    closed = _closed(store, run_id, actor=actor, me=me)
    for letter in store.list_dead_letters(run_id, states=[DeadLetterState.OPEN]):
        store.drop_dead_letter(letter.id, actor=actor, reason="it was imported, and is not tried again here")
    about = ImportRecord(
        source=archive.name,
        digest=head.rows.sha256,
        original_id=head.run_id,
        state=head.state,
        made_by=head.made_by,
        exported_at=head.exported_at,
        imported_at=time.time(),
        imported_by=actor,
    )
    store.mark_imported(run_id, about, actor=actor)
    try:
        read_back(store, run_id)
    except OperatorMustAct:
        raise
    except (CrewError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise BadBundle(archive.name, f"it cannot be read back ({type(error).__name__}: {error})") from error
    return Imported(run=store.load_run(run_id), closed=closed)


def _closed(store: RunStore, run_id: str, *, actor: str, me: Owner) -> tuple[str, ...]:
    """End what had not ended where it came from: nobody works on it here, ever. Returns its tasks."""
    run = store.load_run(run_id)
    if run.state in RUN_TERMINAL:
        return ()
    unfinished = [task.key for task in store.load_tasks(run_id) if task.state not in TASK_TERMINAL]
    message = f"it was {run.state} when it was exported, and a run that was imported does not go on"
    cause = Cause(code=CauseCode.IMPORTED, message=message)
    close_run(store, store.claim(run_id, me), cause, actor=actor)
    return tuple(unfinished)


# --- what the rows must be like together -----------------------------------------------------


def _checked(archive: Archive, lines: Sequence[Line]) -> list[str]:
    """The bodies of the bundle, once its rows fit together. Raises `BadBundle`."""
    problem = next(filter(None, (check(archive, lines) for check in _CHECKS)), None)
    if problem is not None:
        raise BadBundle(archive.name, problem)
    entries = {line.body for line in lines if isinstance(line, TranscriptLine)}
    results = {_ref(line.body) for line in lines if isinstance(line, ResultLine)}
    for sha256 in archive.head.bodies:
        # Read once before anything is written: what is damaged costs nothing then.
        body = archive.body(sha256)
        try:
            if sha256 in entries:
                check_entry(body)
            if sha256 in results:
                check_result(body)
        except ValueError as error:
            raise BadBundle(archive.name, f"the body {sha256[:16]}: {error}") from None
    return sorted(archive.head.bodies)


def _one_run(archive: Archive, lines: Sequence[Line]) -> str | None:
    runs = [line for line in lines if isinstance(line, RunLine)]
    if len(runs) != 1 or not isinstance(lines[0], RunLine):
        return "its first row is not its one run"
    if (runs[0].id, runs[0].state) != (archive.head.run_id, archive.head.state):
        return "its head tells of another run than its rows"
    return None


def _inside(archive: Archive, lines: Sequence[Line]) -> str | None:
    """Nothing may refer to what is not in the bundle: it could be something of another run here."""
    rows = [columns_of(line) for line in lines]
    own = {row["id"] for row in rows if "id" in row}
    for line, row in zip(lines, rows, strict=True):
        for column in _LINKS:
            if row.get(column) is not None and row[column] not in own:
                return f"a row of {line.table} refers to {row[column]!r}, which is not in the bundle"
    return None


def _bodies_fit(archive: Archive, lines: Sequence[Line]) -> str | None:
    sizes = archive.head.bodies
    kept = {line.sha256 for line in lines if isinstance(line, ArtifactLine) and line.removed_at is None}
    for line in lines:
        if isinstance(line, ArtifactLine) and line.sha256 in kept and sizes.get(line.sha256) != line.size:
            return f"the artifact {line.sha256[:16]} has no body, or one of another size"
        if isinstance(line, TranscriptLine) and line.body is not None and line.body not in sizes:
            return f"an entry of a transcript has no body ({line.body[:16]})"
    needed = kept | {line.body for line in lines if isinstance(line, TranscriptLine) and line.body}
    if more := sizes.keys() - needed:
        return f"nothing refers to the body {sorted(more)[0][:16]}"
    listed = {line.sha256 for line in lines if isinstance(line, ArtifactLine)}
    for line in lines:
        # A prompt goes with the details of an old run; what was handed in stays.
        if loose := _refs(line) - (listed if isinstance(line, SessionLine) else kept):
            return f"a row refers to {sorted(loose)[0][:16]}, which is no artifact of the run"
    return None


def _refs(line: Line) -> set[str]:
    match line:
        case AttemptLine(last_text=str(ref)) | SessionLine(prompt=str(ref)) | SectionLine(body=ref):
            return {_ref(ref)}
        case ResultLine(body=body, artifacts=artifacts):
            return {_ref(body), *(ref[0] for ref in json.loads(artifacts).values())}
        case _:
            return set()


def _ref(column: str) -> str:
    """The hash in a reference."""
    return str(json.loads(column)[0])


def _ends_fit(archive: Archive, lines: Sequence[Line]) -> str | None:
    """Nothing is completed without a result, and nothing of an ended run goes on."""
    good = {line.id for line in lines if isinstance(line, ResultLine) and line.error is None}
    attempts = {line.id: line for line in lines if isinstance(line, AttemptLine)}
    proven = {line.id for line in attempts.values() if line.result_id in good}
    run = archive.head.state
    for line in lines:
        if isinstance(line, TaskLine):
            done = line.state is TaskState.COMPLETED
            if done and line.attempt_id not in proven:
                return f"task {line.key!r} is completed and has no result"
            open_end = run in RUN_TERMINAL and line.state not in TASK_TERMINAL
            if open_end or (run is RunState.COMPLETED and not line.optional and not done):
                return f"its run is {run}, and task {line.key!r} is {line.state}"
        elif isinstance(line, AttemptLine):
            going = line.state not in ATTEMPT_TERMINAL
            if going != (line.ended_at is None) or (going and run in RUN_TERMINAL):
                return f"attempt {line.id} is {line.state} and {'has' if line.ended_at else 'has not'} ended"
    return None


_CHECKS: Final[tuple[Callable[[Archive, Sequence[Line]], str | None], ...]] = (
    _one_run,
    _inside,
    _bodies_fit,
    _ends_fit,
)


def _renamed(rows: Rows) -> Rows:
    """The same with ids of our own wherever one of its own stands."""
    names = {str(row["id"]): new_id(str(row["id"]).partition("_")[0]) for _, row in rows if "id" in row}

    def renamed(table: str, name: str, value: Column) -> Column:
        refers = name in _REFERS or (name == "body" and table in ("result", "section"))
        if not refers or not isinstance(value, str):
            return value
        return _ID.sub(lambda found: names.get(found[0], found[0]), value)

    return [
        (table, {name: renamed(table, name, value) for name, value in row.items()}) for table, row in rows
    ]
