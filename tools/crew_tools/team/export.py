"""`export`: write a run into a file."""

from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from crew_plugin.hookspecs import Publishing
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.transfer.export import gather, suggested_name, write_bundle
from crew_plugin.ui.bundles import exported_text
from crew_tools.team.launch import actor_of
from crew_tools.team.runparams import OfRun, file_inside

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "ExportParams", "act"]


class ExportParams(OfRun):
    """Which run, and where to."""

    file: str | None = Field(
        default=None,
        validation_alias=AliasChoices("file", "path", "out"),
        description="export, import: the file, inside the project; for export RUN.crew.zip if left out.",
    )
    overwrite: bool = Field(default=False, description="export: replace a file that is there.")


PARAMETERS = ExportParams


async def act(crew: "Crew", params: ExportParams, context: ToolContext) -> ToolOutput:
    """Write it, and say where it is and what is in it."""
    import anyio.from_thread
    import anyio.to_thread

    gathered = await crew.writer.read(lambda store: gather(store, params.run_id))
    name = params.file or suggested_name(gathered.run.id)
    path = await file_inside(crew, name, by_hand=context.by_hand)
    event = Publishing(run_id=gathered.run.id, file=str(path), actor=actor_of(context))
    await crew.supervisor.allow("before_publish", event)

    async def body(sha256: str) -> bytes:
        return await crew.writer.read(lambda store: store.read_artifact(sha256))

    def read(sha256: str) -> bytes:
        """One body at a time: others want to read, too."""
        return anyio.from_thread.run(body, sha256)

    done = await anyio.to_thread.run_sync(
        lambda: write_bundle(gathered, path, read, overwrite=params.overwrite)
    )
    return ToolOutput(text=exported_text(done.as_json()), details=done.as_json())
