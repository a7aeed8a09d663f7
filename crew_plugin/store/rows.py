"""Between rows and records: JSON columns, causes, references, and text that SQLite can hold."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ArtifactRef, ImportRecord, Owner, ParentRef
from crew_plugin.models.states import RunState

__all__ = [
    "artifact_ref",
    "cause_of",
    "dump",
    "dump_cause",
    "dump_ref",
    "import_of",
    "load",
    "load_ref",
    "owner_of",
    "parent_of",
    "ref_values",
    "text",
]

dump = json.JSONEncoder(separators=(",", ":")).encode
load = json.loads


def text(value: str) -> str:
    """The same text, with what is no Unicode (half a surrogate pair, as models write) replaced."""
    if value.isascii():
        return value
    return value.encode("utf-8", "replace").decode("utf-8")


def dump_cause(cause: Cause | None) -> str | None:
    """A cause as a column."""
    if cause is None:
        return None
    return dump([cause.code, cause.message, cause.detail])


def cause_of(column: str | None) -> Cause | None:
    """The cause in a column. A code of a newer version reads as unknown."""
    if column is None:
        return None
    code, message, detail = load(column)
    known = CauseCode(code) if code in CauseCode else CauseCode.UNKNOWN
    return Cause(code=known, message=message, detail=detail)


def dump_ref(ref: ArtifactRef | None) -> str | None:
    """A reference as a column."""
    if ref is None:
        return None
    return dump(ref_values(ref))


def load_ref(column: str | None) -> ArtifactRef | None:
    """The reference in a column."""
    return None if column is None else artifact_ref(load(column))


def ref_values(ref: ArtifactRef) -> list[str | int | None]:
    """A reference as a JSON list."""
    return [ref.sha256, ref.size, ref.name, ref.media_type, ref.run_id, ref.task_id]


def artifact_ref(values: list[Any]) -> ArtifactRef:
    """The reference that `ref_values` made a list of."""
    sha256, size, name, media_type, run_id, task_id = values
    return ArtifactRef(
        sha256=sha256, size=size, name=name, media_type=media_type, run_id=run_id, task_id=task_id
    )


def import_of(column: str | None) -> ImportRecord | None:
    """Where an imported run came from."""
    if column is None:
        return None
    content: dict[str, Any] = load(column)
    state = RunState(content.pop("state"))
    return ImportRecord(state=state, **content)


def owner_of(row: sqlite3.Row) -> Owner | None:
    """The process that holds a run's lease."""
    if row["owner_pid"] is None:
        return None
    return Owner(pid=row["owner_pid"], started=row["owner_started"], boot_id=row["owner_boot"])


def parent_of(row: sqlite3.Row) -> ParentRef | None:
    """The host session that a row belongs to."""
    if row["parent_host"] is None:
        return None
    route: Mapping[str, str] = load(row["parent_route"])
    return ParentRef(host=row["parent_host"], session=row["parent_session"], route=route)
