"""The file tools of a session: read, grep, find and ls, confined to the session's folder.

Hosts lack some of them, and those they have may take any path of the machine. These look only
into one folder, say what they leave out, and do their work in a thread that a cancelled call
stops.
"""

import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from crew_plugin.errors import CallerError
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_tools.schemas import load_schema

if TYPE_CHECKING:
    from crew_tools.files.room import Room

__all__ = ["FILE_TOOLS", "file_tools"]

FILE_TOOLS: Final = ("read", "grep", "find", "ls")
"""Their host-neutral names, in the order in which they are offered."""

Work = Callable[["Room", Mapping[str, Any], threading.Event], ToolOutput]
"""What a file tool does, off the loop. The event is set when the call was cancelled."""


def file_tools(cwd: str, names: tuple[str, ...] = FILE_TOOLS) -> tuple[ToolSpec, ...]:
    """Those of `names` that are file tools, confined to `cwd`."""
    return tuple(_spec(name, cwd) for name in FILE_TOOLS if name in names)


def _spec(name: str, cwd: str) -> ToolSpec:
    schema = load_schema(name)
    return ToolSpec(
        name=name,
        description=schema.description,
        parameters=schema.parameters,
        execute=_execute(name, cwd),
    )


def _execute(name: str, cwd: str) -> Callable[[Mapping[str, Any], ToolContext], Awaitable[ToolOutput]]:
    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        import anyio.to_thread

        stop = threading.Event()

        def work() -> ToolOutput:
            from crew_tools.files.room import Room

            return _work(name)(Room.of(cwd), arguments, stop)

        try:
            # The thread ends by itself at its next look at `stop`; nobody has to wait for it.
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except CallerError as error:
            raise ToolError(str(error)) from error
        finally:
            stop.set()

    return execute


def _work(name: str) -> Work:
    from importlib import import_module

    work: Work = import_module(f"crew_tools.files.{name}").work
    return work
