"""Stored bodies and the references to them."""

import hashlib
import re
import time
from dataclasses import replace
from pathlib import Path

from crew_plugin.errors import BodyRemoved, CrewError, InvalidValue, UnknownName
from crew_plugin.models.records import ArtifactRef
from crew_plugin.store.bodies import Bodies
from crew_plugin.store.log import EventLog
from crew_plugin.store.rows import artifact_ref, text

__all__ = ["INLINE_BYTES", "Artifacts"]

INLINE_BYTES = 16 * 1024
"""Longer bodies are files: two syncs of their own instead of a share in a commit."""
_SHORTEST_PREFIX = 8
_REF = "sha256, size, name, media_type, run_id, task_id"


class Artifacts(EventLog):
    """A reference is written only after its body is safe."""

    def __init__(self, path: Path, artifacts: Path, *, read_only: bool = False) -> None:
        super().__init__(path, read_only=read_only)
        self._bodies = Bodies(artifacts)

    def put_artifact(
        self,
        run_id: str,
        name: str,
        body: bytes,
        *,
        task_id: str | None = None,
        media_type: str = "text/plain",
        log: bool = False,
    ) -> ArtifactRef:
        """Store a body under its hash, and its reference. A file is safe before anything names it. Of a
        `log` the secrets are taken out first; everything else is kept as it is, byte for byte."""
        name = text(name)
        if log:
            body = self._redactor.body(body)
        with self._change():
            epoch = self._run_row(run_id)["epoch"]
            sha256 = self._keep(body)
            known = self._first(
                f"SELECT {_REF} FROM artifact WHERE sha256 = ? AND run_id = ? AND name = ? AND task_id IS ?"
                " AND removed_at IS NULL",
                (sha256, run_id, name, task_id),
            )
            if known is not None:
                return artifact_ref(list(known))
            self._execute(
                f"INSERT INTO artifact ({_REF}, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (sha256, len(body), name, media_type, run_id, task_id, time.time()),
            )
            self._append(
                run_id,
                epoch,
                "artifact.stored",
                "supervisor",
                task_id=task_id,
                data={"name": name, "sha256": sha256, "size": len(body)},
            )
        return ArtifactRef(
            sha256=sha256,
            size=len(body),
            name=name,
            media_type=media_type,
            run_id=run_id,
            task_id=task_id,
        )

    def read_artifact(self, sha256: str) -> bytes:
        """A body, by its hash or the first eight or more digits of it."""
        prefix = sha256.lower()
        if not re.fullmatch(f"[0-9a-f]{{{_SHORTEST_PREFIX},64}}", prefix):
            raise InvalidValue("artifact", sha256, f"a hash, or its first {_SHORTEST_PREFIX} or more digits")
        beyond = prefix + "g"
        rows = self._all("SELECT sha256 FROM body WHERE sha256 >= ? AND sha256 < ?", (prefix, beyond))
        fits = sorted([*(row["sha256"] for row in rows), *self._bodies.beginning(prefix)])
        if len(fits) > 1:
            raise InvalidValue("artifact", sha256, f"longer: it fits {', '.join(fits)}")
        if fits:
            return self._body(fits[0])
        row = self._first(
            "SELECT removed_at, removed_because FROM artifact"
            " WHERE sha256 >= ? AND sha256 < ? ORDER BY n DESC",
            (prefix, beyond),
        )
        if row is not None and row["removed_at"] is not None:
            raise BodyRemoved(sha256, _removed(row["removed_at"], row["removed_because"]))
        if row is not None:
            raise CrewError(f"artifact {sha256} is gone: its file is missing")
        names = self._all("SELECT DISTINCT sha256 FROM artifact ORDER BY n DESC LIMIT 200")
        raise UnknownName("artifact", sha256, [name["sha256"] for name in names])

    def list_artifacts(self, run_id: str) -> list[ArtifactRef]:
        """The artifacts of a run in the order they were stored, with those whose bodies were removed."""
        rows = self._all(
            f"SELECT {_REF}, removed_at, removed_because FROM artifact WHERE run_id = ? ORDER BY n", (run_id,)
        )
        found: list[ArtifactRef] = []
        for *ref, at, because in rows:
            kept = artifact_ref(ref)
            found.append(kept if at is None else replace(kept, removed=_removed(at, because)))
        return found

    def _keep(self, body: bytes) -> str:
        """Store a body and return its hash: a short one with the change around it, a long one at once."""
        sha256 = hashlib.sha256(body).hexdigest()
        if len(body) > INLINE_BYTES:
            self._bodies.put(sha256, body)
        else:
            self._execute(
                "INSERT INTO body (sha256, content) VALUES (?, ?) ON CONFLICT DO NOTHING", (sha256, body)
            )
        return sha256

    def _body(self, sha256: str) -> bytes:
        """The body with this whole hash. Raises `CrewError` if it is gone or damaged."""
        row = self._first("SELECT content FROM body WHERE sha256 = ?", (sha256,))
        body: bytes = self._bodies.read(sha256) if row is None else row["content"]
        if hashlib.sha256(body).hexdigest() != sha256:
            raise CrewError(f"the body of artifact {sha256[:12]} is damaged: its hash does not match")
        return body


def _removed(at: float, because: str) -> str:
    return f"removed by policy on {time.strftime('%Y-%m-%d', time.localtime(at))} because {because}"
