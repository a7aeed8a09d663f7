"""The journal of a session's tool calls: no call is made that was not written down."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import anyio

from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.records import Effect, Lease
from crew_plugin.session.record import Entry, Record
from crew_plugin.store.port import RunStore

__all__ = ["Journal"]

_ANNOUNCED_WITHIN: Final = 1.0
_ERROR_LIMIT: Final = 1000


class Journal:
    """Implements `ToolJournal`, and wraps the crew's own tools with it.

    Before a call is written down, the model's answer that asked for it is: the transcript of a
    session that died never lacks the reason for an effect.
    """

    def __init__(self, record: Record, lease: Lease, attempt_id: str) -> None:
        self._record = record
        self._lease = lease
        self._attempt_id = attempt_id
        self._announced = 0
        self._begun = 0
        self._open: set[str] = set()
        self._news = anyio.Event()
        self.only: frozenset[str] | None = None
        """The tools that may still be called; None for all. Engines that cannot narrow what they
        offer are narrowed here."""
        self.touched_the_world = False
        """Whether a call was begun that cannot be repeated without thought."""

    def announce(self, calls: int) -> None:
        """An answer with so many tool calls is in the record now."""
        self._announced += calls
        self._news.set()
        self._news = anyio.Event()

    def cut_off(self, reason: str) -> None:
        """No call is under way any more: say so of those that have no end, and expect none of those
        that were announced."""
        self._announced = self._begun = 0
        for call_id in self._open:
            self._record.add(_cut_off(call_id, reason))
        self._open.clear()

    async def begin(self, tool: str, arguments: Mapping[str, Any], effect: Effect) -> str:
        """Write the call down; it may be made when this returns, and must not if it raises."""
        await self._until_announced()
        self._begun += 1
        if self.only is not None and tool not in self.only:
            left = ", ".join(sorted(self.only))
            raise ToolError(f"{tool} was not called: only {left} is left to this session")

        def write(store: RunStore) -> str:
            return store.begin_tool_call(self._lease, self._attempt_id, tool, effect, _json(arguments))

        try:
            call_id = await self._record.write(write)
        except Exception as error:
            raise ToolError(f"{tool} was not called: the call could not be written down ({error})") from error
        if effect is Effect.EXTERNAL:
            self.touched_the_world = True
        self._open.add(call_id)
        return call_id

    def skip(self) -> None:
        """A call that was announced is not going to be made: the next one is of another answer."""
        self._begun += 1

    async def end(self, call_id: str, error: str | None, *, cancelled: bool = False) -> None:
        """Write down soon how it ended."""
        if call_id not in self._open:
            return  # it came after its session had been cut off, which is on record
        self._open.remove(call_id)
        shown = error[:_ERROR_LIMIT] if error is not None else None
        self._record.add(lambda store: store.end_tool_call(call_id, error=shown, cancelled=cancelled))

    def wrapped(self, tool: ToolSpec) -> ToolSpec:
        """The same tool, each call of it journalled."""

        async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
            call_id = await self.begin(tool.name, arguments, tool.effect)
            try:
                output = await tool.execute(arguments, context)
            except Exception as error:
                await self.end(call_id, f"{type(error).__name__}: {error}")
                raise
            except BaseException:
                await self.end(call_id, None, cancelled=True)
                raise
            await self.end(call_id, None)
            return output

        return replace(tool, execute=execute)

    async def _until_announced(self) -> None:
        """Wait for the answer that asked for this call. It is under way already; the limit is for
        an engine that makes calls of its own."""
        if self._begun < self._announced:
            return
        with anyio.move_on_after(_ANNOUNCED_WITHIN):
            while self._begun >= self._announced:
                await self._news.wait()


def _cut_off(call_id: str, reason: str) -> Entry:
    return lambda store: store.end_tool_call(call_id, error=reason, cancelled=True)


def _json(arguments: Mapping[str, Any]) -> str:
    """Runs on the writing thread: arguments may be megabytes."""
    return json.dumps(arguments, ensure_ascii=False, default=str)
