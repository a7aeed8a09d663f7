"""`import`: read a run from a file."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.store.liveness import current_owner
from crew_plugin.transfer.load import checked_bundle, write_down
from crew_plugin.ui.bundles import imported_text
from crew_tools.params import Params
from crew_tools.team.launch import actor_of
from crew_tools.team.runparams import file_inside

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "ImportParams", "act"]


class ImportParams(Params):
    """Which file."""

    file: str = Field(
        validation_alias=AliasChoices("file", "path"),
        description="export, import: the file, inside the project; for export RUN.crew.zip if left out.",
    )
    as_new: bool = Field(default=False, description="import: give the run an id of its own.")


PARAMETERS = ImportParams


async def act(crew: "Crew", params: ImportParams, context: ToolContext) -> ToolOutput:
    """Check it and write it down."""
    path = await file_inside(crew, params.file, by_hand=context.by_hand)
    import anyio.to_thread

    with ExitStack() as stack:
        opening = checked_bundle(path, most_bytes=crew.settings.bundles.max_bytes)
        bundle = await anyio.to_thread.run_sync(stack.enter_context, opening)
        done = await crew.writer.run(
            lambda store: write_down(
                store, bundle, as_new=params.as_new, actor=actor_of(context), me=current_owner()
            )
        )
    return ToolOutput(text=imported_text(done.as_json()), details=done.as_json())
