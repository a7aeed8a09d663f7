"""One end of the connection between a supervisor and a worker."""

import asyncio
import socket
from collections.abc import AsyncIterator

from crew_plugin.child.protocol import Message, ProtocolError, decode, encode

__all__ = ["LINE_BYTES", "Wire"]

LINE_BYTES = 128 * 1024 * 1024
"""The longest line: a result of megabytes, in JSON."""


class Wire:
    """Messages in both directions, in order. `send` never waits."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connection: socket.socket) -> "Wire":
        """Over a connected socket, which is closed with it."""
        connection.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=connection, limit=LINE_BYTES))

    def send(self, message: Message) -> None:
        """Send soon. What nobody reads any more is lost, and that shows in `messages`."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def messages(self) -> AsyncIterator[Message]:
        """What the other side says, until it has gone. Raises `ProtocolError`."""
        while True:
            try:
                line = await self._reader.readline()
            except ConnectionError:
                return
            except ValueError as error:
                raise ProtocolError(f"a line of more than {LINE_BYTES} bytes") from error
            if not line.endswith(b"\n"):
                return
            yield decode(line)

    async def close(self) -> None:
        """Close it; what was sent before is sent first, if somebody reads it."""
        try:
            async with asyncio.timeout(1):
                await self._writer.drain()
        except (OSError, TimeoutError):
            pass
        self._writer.close()
