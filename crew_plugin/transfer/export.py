"""Writing a run into a bundle: a zip file with everything that can be read of it."""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crew_plugin.errors import CallerError, InvalidValue
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.store.port import RunStore
from crew_plugin.transfer.parts import BODIES, FORMAT, HEAD, MOST_ENTRIES, ROWS, VERSION

__all__ = [
    "Dumped",
    "Exported",
    "Gathered",
    "dumped",
    "export_run",
    "gather",
    "suggested_name",
    "write_bundle",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumped:
    """The rows of a run as one text, and what they refer to."""

    lines: bytes
    count: int
    bodies: tuple[str, ...]
    """Hashes."""

    @property
    def digest(self) -> str:
        """The hash by which the same content is known again."""
        return hashlib.sha256(self.lines).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A run at one moment."""

    run: RunRecord
    rows: Dumped
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle that was written."""

    run: RunRecord
    path: Path
    size: int
    """Its bytes."""
    digest: str
    at: float

    @property
    def snapshot(self) -> bool:
        """Whether the run had not ended: what stood there at that moment is in it."""
        return self.run.state not in RUN_TERMINAL

    def as_json(self) -> dict[str, Any]:
        """The stable shape that `--json` prints."""
        return {
            "run_id": self.run.id,
            "state": str(self.run.state),
            "snapshot": self.snapshot,
            "file": str(self.path),
            "size": self.size,
            "sha256_of_rows": self.digest,
            "exported_at": self.at,
        }


def suggested_name(run_id: str) -> str:
    """What a bundle of this run is called where nobody says otherwise."""
    return f"{run_id}.crew.zip"


def export_run(store: RunStore, run_id: str, path: Path, *, overwrite: bool) -> Exported:
    """Write a run as it stands at one moment into a file. Raises as `write_bundle`."""
    return write_bundle(gather(store, run_id), path, store.read_artifact, overwrite=overwrite)


def gather(store: RunStore, run_id: str) -> Gathered:
    """The rows of a run at one moment. Raises `UnknownName`."""
    with store.transaction():
        run = store.load_run(run_id)
        return Gathered(run=run, rows=dumped(store, run.id), at=time.time())


def write_bundle(
    gathered: Gathered, path: Path, read: Callable[[str], bytes], *, overwrite: bool
) -> Exported:
    """Write a bundle into a file that only its owner can read, and that is there whole or not at all.
    `read` gives a body by its hash. Blocks.

    Raises:
        CallerError: there is a file already, or it cannot be written, or the run is too large.
    """
    run, rows, at = gathered.run, gathered.rows, gathered.at
    if path.exists() and not overwrite:
        raise InvalidValue("file", str(path), "one that does not exist yet, unless you say overwrite")
    if len(rows.bodies) > MOST_ENTRIES:
        raise CallerError(f"run {run.id} has {len(rows.bodies):,} bodies; a bundle holds {MOST_ENTRIES:,}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            _write(zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=False), gathered, read)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, zipfile.LargeZipFile) as error:
        raise CallerError(f"the bundle cannot be written to {str(path)!r}: {error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
    return Exported(run=run, path=path, size=path.stat().st_size, digest=rows.digest, at=at)


def dumped(store: RunStore, run_id: str) -> Dumped:
    """The rows of a run. The same run gives the same text, to the letter."""
    lines: list[bytes] = []
    bodies: dict[str, None] = {}
    for table, row in store.dump_run(run_id):
        lines.append(json.dumps({"table": table, **row}, sort_keys=True, separators=(",", ":")).encode())
        if table == "artifact" and row["removed_at"] is None:
            bodies[str(row["sha256"])] = None
        elif table == "transcript" and row["body"] is not None:
            bodies[str(row["body"])] = None
    return Dumped(
        lines=b"".join(line + b"\n" for line in lines), count=len(lines), bodies=tuple(sorted(bodies))
    )


def _write(archive: zipfile.ZipFile, gathered: Gathered, read: Callable[[str], bytes]) -> None:
    rows, at = gathered.rows, gathered.at
    sizes: dict[str, int] = {}
    with archive:
        archive.writestr(_entry(ROWS, at), rows.lines)
        for sha256 in rows.bodies:
            body = read(sha256)
            sizes[sha256] = len(body)
            archive.writestr(_entry(BODIES + sha256, at), body)
        head = {
            "format": FORMAT,
            "version": VERSION,
            "made_by": version("crew-plugin"),
            "exported_at": at,
            "run_id": gathered.run.id,
            "state": str(gathered.run.state),
            "rows": {"sha256": rows.digest, "size": len(rows.lines), "count": rows.count},
            "bodies": sizes,
        }
        archive.writestr(_entry(HEAD, at), json.dumps(head, indent=1) + "\n")


def _entry(name: str, at: float) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, time.gmtime(at)[:6])
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry
