"""`artifacts`: the stored bodies of a run."""

from typing import TYPE_CHECKING

from pydantic import Field

from crew_plugin.errors import BodyRemoved, CallerError
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import artifacts_text
from crew_plugin.ui.views import task_names
from crew_tools.team.answer import LIMIT, quoted
from crew_tools.team.runparams import OfRun

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "ArtifactsParams", "act"]

_MOST = 200


class ArtifactsParams(OfRun):
    """Which run, or which body."""

    artifact: str | None = Field(
        default=None, min_length=8, description="artifacts: read this one, by the beginning of its hash."
    )
    offset: int = Field(default=0, ge=0, description="artifacts: the character to begin with.")


PARAMETERS = ArtifactsParams


async def act(crew: "Crew", params: ArtifactsParams, context: ToolContext) -> ToolOutput:
    """List them, or read one."""
    if params.artifact is not None:
        return await crew.writer.read(lambda store: _piece(store, str(params.artifact), params.offset))
    return await crew.writer.read(lambda store: _listed(store, params.run_id))


def _listed(store: RunStore, wanted: str) -> ToolOutput:
    run_id = store.load_run(wanted).id
    refs = store.list_artifacts(run_id)
    lines = [
        f"run {run_id}: {len(refs):,} artifacts",
        artifacts_text(refs[:_MOST], task_names(store, run_id)),
    ]
    if len(refs) > _MOST:
        lines.append(f"... {len(refs) - _MOST:,} more")
    if refs:
        lines.append('Next: action="artifacts", artifact=HASH reads one.')
    return ToolOutput(text="\n".join(lines), details={"run_id": run_id, "artifacts": len(refs)})


def _piece(store: RunStore, sha256: str, offset: int) -> ToolOutput:
    try:
        text = store.read_artifact(sha256).decode("utf-8", "replace")
    except BodyRemoved as gone:
        return ToolOutput(text=str(gone), details={"artifact": sha256, "removed": gone.story})
    if offset and offset >= len(text):
        raise CallerError(
            f"artifact {sha256} has only {len(text):,} characters; offset {offset:,} is too far"
        )
    piece = text[offset : offset + LIMIT]
    end = offset + len(piece)
    lines = [f"artifact {sha256}: characters {offset:,} to {end:,} of {len(text):,}", quoted(piece)]
    if end < len(text):
        lines.append(f"... {len(text) - end:,} more characters; go on with offset={end}")
    return ToolOutput(text="\n".join(lines), details={"artifact": sha256, "characters": len(text)})
