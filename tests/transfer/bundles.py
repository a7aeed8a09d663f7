"""Bundles to import: a good one, and what somebody may make of it."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crew_plugin.project import Project
from crew_plugin.store.sqlite import SqliteStore

FROZEN = Path(__file__).parent.parent / "store" / "frozen" / "v2"


def project_in(folder: Path) -> Project:
    return Project(root=folder, state_dir=folder / ".crew" / "state")


def full_store(folder: Path) -> SqliteStore:
    """A store with one run for each way to end: failed, lost with a question and a hold, lost."""
    shutil.copytree(FROZEN, folder / ".crew" / "state")
    return SqliteStore.open(project_in(folder))


@dataclass
class Parts:
    """What is in a bundle, to be changed."""

    head: dict[str, Any]
    rows: list[dict[str, Any]]
    bodies: dict[str, bytes]
    extra: list[tuple[zipfile.ZipInfo, bytes]] = field(default_factory=list[tuple[zipfile.ZipInfo, bytes]])
    left_out: set[str] = field(default_factory=set[str])
    honest: bool = True
    """Whether the head is made to fit what was changed."""

    def row(self, table: str, n: int = 0) -> dict[str, Any]:
        """One row of a table."""
        return [row for row in self.rows if row["table"] == table][n]

    def put(self, sha256: str, body: bytes) -> None:
        """Another body in the place of one, under its own hash wherever that is named."""
        new = hashlib.sha256(body).hexdigest()
        size = len(self.bodies.pop(sha256))
        self.bodies[new] = body
        for row in self.rows:
            for name, value in row.items():
                if isinstance(value, str):
                    row[name] = value.replace(f'"{sha256}",{size}', f'"{new}",{len(body)}').replace(
                        sha256, new
                    )
            if row.get("sha256") == new:
                row["size"] = len(body)


def forge(good: Path, bad: Path, change: Callable[[Parts], None]) -> Path:
    """The bundle with a change."""
    with zipfile.ZipFile(good) as archive:
        parts = Parts(
            head=json.loads(archive.read("run.json")),
            rows=[json.loads(line) for line in archive.read("rows.jsonl").splitlines()],
            bodies={
                name.removeprefix("bodies/"): archive.read(name)
                for name in archive.namelist()
                if name.startswith("bodies/")
            },
        )
    change(parts)
    rows = "".join(
        json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for row in parts.rows
    ).encode()
    if parts.honest:
        parts.head["rows"] = {
            "sha256": hashlib.sha256(rows).hexdigest(),
            "size": len(rows),
            "count": len(parts.rows),
        }
        parts.head["bodies"] = {name: len(body) for name, body in parts.bodies.items()}
    entries = {"rows.jsonl": rows, "run.json": json.dumps(parts.head).encode()}
    entries |= {f"bodies/{name}": body for name, body in parts.bodies.items()}
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in entries.items():
            if name not in parts.left_out:
                archive.writestr(name, body)
        for entry, body in parts.extra:
            archive.writestr(entry, body)
    return bad
