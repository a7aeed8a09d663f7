"""What a session says about itself: its transcript, its events, its progress."""

from collections.abc import Mapping
from typing import Any

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.models.causes import Cause
from crew_plugin.models.records import NewEvent, TranscriptEntry, Usage
from crew_plugin.session.recorder import Entry, Recorder

__all__ = ["Record", "usage_data"]


def usage_data(usage: Usage) -> dict[str, Any]:
    """Usage as it stands in events."""
    data: dict[str, Any] = {
        "input": usage.input,
        "output": usage.output,
        "cached": usage.cached,
        "calls": usage.calls,
    }
    return data if usage.cost is None else {**data, "cost": usage.cost}


class Record:
    """Makes the writes of one session and hands them to its recorder."""

    def __init__(self, context: AttemptContext, recorder: Recorder) -> None:
        self._context = context
        self._recorder = recorder

    def entry(self, role: str, content: str, data: Mapping[str, Any] | None = None) -> None:
        """Append to the transcript."""
        lease, session_id = self._context.lease, self._context.attempt.session_id
        entry = TranscriptEntry(seq=0, role=role, content=content, data=data or {})
        self._recorder.add(lambda store: store.append_transcript(lease, session_id, [entry]))

    def event(self, type: str, data: Mapping[str, Any], *, cause: Cause | None = None) -> None:  # noqa: A002 - the event's own word
        """Append an event."""
        self._recorder.add(self.event_entry(type, data, cause=cause))

    def event_entry(self, type: str, data: Mapping[str, Any], *, cause: Cause | None = None) -> Entry:  # noqa: A002 - the event's own word
        """What appends an event, for a transaction of the caller's."""
        context = self._context
        event = NewEvent(
            type=type,
            actor=context.task.key,
            task_id=context.task.id,
            attempt_id=context.attempt.id,
            cause=cause,
            data=data,
        )
        return lambda store: store.append_events(context.lease, context.run.id, [event])

    def progress(self, usage: Usage, steps: int, model: str | None) -> None:
        """Note usage, model calls and activity."""
        lease, attempt_id = self._context.lease, self._context.attempt.id
        self._recorder.add(
            lambda store: store.touch_attempt(lease, attempt_id, usage=usage, steps=steps, model_used=model)
        )
