"""`read` for what the run has stored: texts that a prompt or a tool shows only a part of."""

import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from crew_plugin.errors import CrewError
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec

__all__ = ["reading_artifacts"]

_PREFIX: Final = "artifact:"


def reading_artifacts(tool: ToolSpec, fetch: Callable[[str], Awaitable[bytes]]) -> ToolSpec:
    """The tool `read`, which also takes `artifact:HASH` for a path."""

    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        path = arguments.get("path")
        if not isinstance(path, str) or not path.startswith(_PREFIX):
            return await tool.execute(arguments, context)
        try:
            body = await fetch(path.removeprefix(_PREFIX))
            return await _shown(body, arguments)
        except CrewError as error:
            raise ToolError(str(error)) from error

    return replace(tool, execute=execute)


async def _shown(body: bytes, arguments: Mapping[str, Any]) -> ToolOutput:
    import anyio.to_thread

    stop = threading.Event()

    def work() -> ToolOutput:
        from io import BytesIO

        from crew_tools.files.read import ReadParams, window
        from crew_tools.params import parse

        return window(BytesIO(body), parse(ReadParams, arguments), stop)

    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    finally:
        stop.set()
