"""Telling the person in the chat what a run does while a tool call waits for it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from crew_plugin.host import ToolContext
from crew_plugin.models.records import EventRecord
from crew_plugin.ui.events import event_line
from crew_plugin.ui.shapes import TaskName
from crew_plugin.ui.views import task_names

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

    from crew_plugin.crew import Crew

__all__ = ["progress"]

_BACKLOG = 10_000
"""Events that wait for a slow chat; what comes beyond is not shown (the store has it)."""


@asynccontextmanager
async def progress(crew: "Crew", run_id: str, context: ToolContext) -> AsyncGenerator[None]:
    """While the body runs, one line for each notable event of the run goes to the caller."""
    if context.progress is None:
        yield
        return
    names = await crew.writer.read(lambda store: task_names(store, run_id))
    sender, receiver = anyio.create_memory_object_stream[EventRecord](_BACKLOG)

    def saw(event: EventRecord) -> None:
        if event.run_id == run_id:
            try:
                sender.send_nowait(event)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                return

    unsubscribe = crew.writer.subscribe(saw)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_show, receiver, context, names)
            try:
                yield
            finally:
                unsubscribe()
                sender.close()
    finally:
        unsubscribe()
        receiver.close()


async def _show(
    receiver: "MemoryObjectReceiveStream[EventRecord]", context: ToolContext, names: dict[str, TaskName]
) -> None:
    show = context.progress
    async for event in receiver:
        line = event_line(event, names)
        if line is None or show is None:
            continue
        try:
            await show(line)
        except Exception:  # noqa: BLE001 - the host's display failed; the run it shows must not
            show = None
