"""References to stored bodies."""

import time
from pathlib import Path

from crew_plugin.errors import CrewError, UnknownName
from crew_plugin.models.records import ArtifactRef
from crew_plugin.store.bodies import Bodies
from crew_plugin.store.log import EventLog
from crew_plugin.store.rows import artifact_ref, text

__all__ = ["Artifacts"]

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
    ) -> ArtifactRef:
        """Store a body under its hash (write, fsync, rename) and then its reference."""
        name = text(name)
        sha256 = self._bodies.put(body)
        with self._change():
            epoch = self._run_row(run_id)["epoch"]
            known = self._first(
                f"SELECT {_REF} FROM artifact WHERE sha256 = ? AND run_id = ? AND name = ? AND task_id IS ?",
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
        whole = self._bodies.whole(sha256)
        if whole is not None:
            return self._bodies.read(whole)
        pattern = sha256.lower() + "*"
        row = self._first(
            "SELECT removed_because FROM artifact WHERE sha256 GLOB ? ORDER BY n DESC", (pattern,)
        )
        if row is not None:
            raise CrewError(f"artifact {sha256} is gone: {row['removed_because'] or 'its file is missing'}")
        names = self._all("SELECT DISTINCT sha256 FROM artifact ORDER BY n DESC LIMIT 200")
        raise UnknownName("artifact", sha256, [name["sha256"] for name in names])

    def list_artifacts(self, run_id: str) -> list[ArtifactRef]:
        """The artifacts of a run in the order they were stored."""
        rows = self._all(f"SELECT {_REF} FROM artifact WHERE run_id = ? ORDER BY n", (run_id,))
        return [artifact_ref(list(row)) for row in rows]
