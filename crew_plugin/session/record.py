"""What a session says about itself: its transcript, its events, its progress, its tool calls.

Written down in order and without making the session wait. What is said within a moment is one
operation of the store.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import anyio

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import CrewError
from crew_plugin.host import PluginActed, ServerNoted, ToolCall, ToolEnded
from crew_plugin.models.causes import Cause
from crew_plugin.models.mail import UNREAD, MessageState
from crew_plugin.models.records import Counts, NewEvent, TranscriptEntry, Usage
from crew_plugin.session.history import shortened_call
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["Entry", "Record", "usage_data"]

MOMENT: Final = 0.02
"""How long something may wait for company, in seconds, if nobody waits for it."""

Entry = Callable[[RunStore], Any]


def usage_data(usage: Usage) -> dict[str, Any]:
    """Usage as it stands in events."""
    data: dict[str, Any] = {
        "input": usage.input,
        "output": usage.output,
        "cached": usage.cached,
        "calls": usage.calls,
    }
    return data if usage.cost is None else {**data, "cost": usage.cost}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Progress:
    usage: Usage
    steps: int
    model: str | None
    counts: Counts


@dataclass(slots=True, kw_only=True)
class _Moment:
    """What is written down together."""

    transcript: list[TranscriptEntry] = field(default_factory=list[TranscriptEntry])
    events: list[NewEvent] = field(default_factory=list[NewEvent])
    progress: _Progress | None = None
    others: list[Entry] = field(default_factory=list[Entry])

    def write(self, store: RunStore, context: AttemptContext) -> None:
        """Other entries come last: a call is journalled after the answer that asked for it."""
        lease, attempt = context.lease, context.attempt
        if self.transcript:
            store.append_transcript(lease, attempt.session_id, self.transcript)
        if self.events:
            store.append_events(lease, context.run.id, self.events)
        if self.progress is not None:
            store.touch_attempt(
                lease,
                attempt.id,
                usage=self.progress.usage,
                steps=self.progress.steps,
                model_used=self.progress.model,
                counts=self.progress.counts,
            )
        for entry in self.others:
            entry(store)


class Record:
    """The record of one session, handed to the store's writer by the one task in `keep_writing`.

    After a failure nothing more is written and everyone who waits is told: a session whose record
    has a hole must end.
    """

    def __init__(self, context: AttemptContext, writer: StoreWriter) -> None:
        self._context = context
        self._writer = writer
        self._moment = _Moment()
        self._taken = 0
        self._written = 0
        """Moments that were handed over, and that are on the disk."""
        # Of asyncio, as the store's writer: each session sets and waits for them many times.
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._progress = asyncio.Event()
        self._failure: Exception | None = None

    def entry(self, role: str, content: str, data: Mapping[str, Any] | None = None) -> None:
        """Append to the transcript."""
        self._moment.transcript.append(TranscriptEntry(seq=0, role=role, content=content, data=data or {}))
        self._work.set()

    def calls(self, calls: Sequence[ToolCall], step: int) -> list[dict[str, Any]]:
        """The calls of an answer as a transcript entry has them. Arguments that are not told whole are
        kept as an artifact."""
        return [{**asdict(call), "arguments": self._told(call, step)} for call in calls]

    def _told(self, call: ToolCall, step: int) -> str:
        told = shortened_call(call.arguments)
        if told is not call.arguments:
            context = self._context
            name = f"{context.task.key}/call-{context.attempt.number}-{step}-{call.name}.json"
            self.add(
                lambda store: store.put_artifact(
                    context.run.id,
                    name,
                    call.arguments.encode("utf-8", "replace"),
                    task_id=context.task.id,
                    media_type="application/json",
                    log=True,
                )
            )
        return told

    def event(self, type: str, data: Mapping[str, Any], *, cause: Cause | None = None) -> None:  # noqa: A002 - the event's own word
        """Append an event."""
        context = self._context
        event = NewEvent(
            type=type,
            actor=context.task.key,
            task_id=context.task.id,
            attempt_id=context.attempt.id,
            cause=cause,
            data=data,
        )
        self._moment.events.append(event)
        self._work.set()

    def tool_ended(self, event: ToolEnded, messages: Sequence[str] = ()) -> None:
        """A call has its result, with these messages in it."""
        data = {"call_id": event.call_id, "name": event.name, "ok": event.ok}
        self.entry("tool", event.text, {**data, "messages": list(messages)} if messages else data)
        ended = {"tool": event.name, "ok": event.ok, "ms": round(event.milliseconds, 1)}
        self.event("session.tool_ended", ended)

    def noted(self, event: ServerNoted | PluginActed) -> None:
        """Something happened beside the conversation."""
        if isinstance(event, PluginActed):
            self.event("session.plugin_acted", asdict(event))
        else:
            noted = {"server": event.server, "state": event.state, "text": event.text}
            self.event("session.mcp_server", noted)

    def progress(self, usage: Usage, steps: int, model: str | None, counts: Counts) -> None:
        """Note usage, model calls, counts and activity."""
        before = self._moment.progress
        if model is None and before is not None:
            model = before.model
        self._moment.progress = _Progress(usage=usage, steps=steps, model=model, counts=counts)
        self._work.set()

    def read(self, *message_ids: str) -> None:
        """A model has seen these messages, or does with the entry that was made last. One that was given
        up meanwhile stays what it is."""

        def write(store: RunStore) -> None:
            for message_id in message_ids:
                if store.load_message(message_id).state in UNREAD:
                    store.settle_message(message_id, MessageState.READ)

        if message_ids:
            self.add(write)

    def add(self, entry: Entry) -> None:
        """Write something else soon."""
        self._moment.others.append(entry)
        self._work.set()

    async def write[T](self, entry: Callable[[RunStore], T]) -> T:
        """Return what `entry` returned, when it and all that was said before is on the disk. Raises
        what the store raised."""
        values: list[T] = []
        self.add(lambda store: values.append(entry(store)))
        target = self._taken + 1
        self._hurry.set()
        while self._written < target:
            if self._failure is not None:
                raise self._failure
            await self._progress.wait()
        return values[-1]

    async def flush(self, seconds: float) -> None:
        """Return when all that was said is on the disk, or after so many seconds. What goes wrong is
        told by `keep_writing`."""
        target = self._taken + 1
        self._work.set()
        self._hurry.set()
        with anyio.move_on_after(seconds):
            while self._written < target and self._failure is None:
                await self._progress.wait()

    async def keep_writing(self) -> None:
        """Write whatever is said, until cancelled. Raises what the store raised."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._work.wait()
                if not self._hurry.is_set():
                    enough = loop.call_later(MOMENT, self._hurry.set)
                    try:
                        await self._hurry.wait()
                    finally:
                        enough.cancel()
                write = self.rest()
                await self._writer.run(write)
                self._written += 1
                self._tell()
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._failure = self._failure or CrewError("the session is over")
            self._tell()

    def rest(self) -> Entry:
        """Take what has not been handed to the writer yet, as what writes it."""
        moment, self._moment = self._moment, _Moment()
        self._work.clear()
        self._hurry.clear()
        self._taken += 1
        return lambda store: moment.write(store, self._context)

    def _tell(self) -> None:
        self._progress.set()
        self._progress.clear()
