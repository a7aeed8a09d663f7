"""A real MCP server: `python arithmetic.py FOLDER` on stdio, `python arithmetic.py FOLDER PORT` over HTTP.

Each start leaves a file with its pid in FOLDER, so that a test can count the processes.
"""

import os
import sys
from pathlib import Path

import anyio
from mcp.server.fastmcp import FastMCP

server = FastMCP("arithmetic", log_level="ERROR")
inside = anyio.Semaphore(0)
waiting = 0


@server.tool(structured_output=False)
def add(a: int, b: int) -> str:
    """Add two numbers. Says which process did it."""
    return f"{a + b} by {os.getpid()}"


@server.tool(structured_output=False)
def fail() -> str:
    """Fail."""
    raise ValueError("the server says no")


@server.tool(structured_output=False)
async def sleep_forever() -> None:
    """Never answer."""
    await anyio.sleep_forever()


@server.tool(structured_output=False)
async def meet(of: int) -> str:
    """Answer once so many calls are in here at the same time."""
    global waiting
    waiting += 1
    if waiting == of:
        waiting = 0
        for _ in range(of - 1):
            inside.release()
    else:
        await inside.acquire()
    return f"{of} met in {os.getpid()}"


@server.tool(structured_output=False)
def recite(length: int) -> str:
    """Say a text of this length."""
    return "first " + "x" * (length - 11) + " last"


@server.tool(structured_output=False)
def leave() -> None:
    """End the server."""
    os._exit(0)


if __name__ == "__main__":
    Path(sys.argv[1], f"{os.getpid()}.pid").touch()
    if len(sys.argv) > 2:
        server.settings.port = int(sys.argv[2])
        server.run("streamable-http")
    else:
        server.run("stdio")
