"""Events as lines of text: all of them for a log, the notable ones for whoever watches a run."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import EventRecord, Usage
from crew_plugin.models.states import RunState
from crew_plugin.ui.shapes import TaskName
from crew_plugin.ui.text import (
    clock_text,
    columns,
    given_up_text,
    one_line,
    printable,
    seconds_text,
    tokens_text,
)

__all__ = ["event_line", "events_text"]


def events_text(events: Sequence[EventRecord], names: Mapping[str, TaskName]) -> str:
    """Events, one line each: everything that was written down, not only the notable ones."""
    if not events:
        return "no events"
    return "\n".join(
        columns(
            [
                (
                    str(event.seq),
                    clock_text(event.at),
                    event.type,
                    _who(event, names)[0],
                    _origin(event),
                    _facts(event),
                )
                for event in events
            ]
        )
    )


def event_line(event: EventRecord, names: Mapping[str, TaskName]) -> str | None:
    """One progress line for a notable event; None for the others."""
    say = _NOTABLE.get(event.type)
    what = say(event) if say else None
    if what is None:
        return None
    key, agent = _who(event, names)
    who = f"{agent:<17}  " if agent not in ("", key) else ""
    return f"{key:<14}  {who}{one_line(what, 160)}".rstrip()


def _origin(event: EventRecord) -> str:
    """Who wrote it, under which epoch of the run, and for which attempt (the end of its id)."""
    attempt = f" attempt:{event.attempt_id[-6:]}" if event.attempt_id else ""
    return f"by:{one_line(event.actor, 40)} epoch:{event.epoch}{attempt}"


def _who(event: EventRecord, names: Mapping[str, TaskName]) -> tuple[str, str]:
    if event.task_id is None:
        return "run", ""
    name = names.get(event.task_id)
    if name is not None:
        return name.key, name.agent
    # A task that was added after the names were read.
    return str(event.data.get("key", event.task_id)), str(event.data.get("agent", ""))


def _facts(event: EventRecord) -> str:
    parts = [f"{key}={_value(value)}" for key, value in event.data.items() if value not in (None, "", [], {})]
    if event.cause is not None:
        parts.append(f"cause={event.cause}")
    return one_line(" ".join(parts), 160)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _field(event: EventRecord, key: str) -> str:
    value = event.data.get(key)
    return "" if value is None else _value(value)


def _spent(event: EventRecord) -> str:
    """What an attempt took: ` in 1.1s, 4.9k in, 61 out`; empty where there was none."""
    seconds = event.data.get("seconds")
    if not isinstance(seconds, int | float):
        return ""
    tokens: Mapping[str, int] = event.data.get("tokens") or {}
    used = tokens_text(Usage(input=tokens.get("input", 0), output=tokens.get("output", 0)))
    return f" in {seconds_text(seconds)}" + (f", {used}" if used else "")


def _because(event: EventRecord) -> str:
    cause: Cause | None = event.cause
    return f": {cause.message}" if cause is not None else ""


def _is_dry(event: EventRecord) -> bool:
    return event.cause is not None and event.cause.code is CauseCode.DRY_RUN


def _resolved(event: EventRecord) -> str | None:
    """What was asked for and not had; None where it was had."""
    return (
        f"{_field(event, 'kind')} sessions: {_field(event, 'reason')}" if event.data.get("fallback") else None
    )


def _run_failed(event: EventRecord) -> str:
    return (
        "dry run" + _because(event).replace(": a dry run", "")
        if _is_dry(event)
        else "failed" + _because(event)
    )


def _attention(event: EventRecord) -> str:
    if _is_dry(event):
        return "prompt written; no model was asked"
    return "needs attention" + _spent(event) + _because(event)


def _plugin_acted(event: EventRecord) -> str:
    about = " ".join(part for part in (_field(event, "outcome"), _field(event, "tool")) if part)
    why = _field(event, "text")
    return f"plugin {_field(event, 'plugin')} ({_field(event, 'hook')}): {about}" + (
        f": {why}" if why else ""
    )


def _hook_executed(event: EventRecord) -> str | None:
    """What a hook refused, changed, said or did wrong; None for one that let things go on."""
    outcome = _field(event, "outcome")
    if outcome == "allowed":
        return None
    why = _field(event, "reason") or _field(event, "diagnostic")
    changed = ", ".join(event.data.get("changed") or ())
    told = f"{outcome} {changed}".rstrip() + (f": {why}" if why else "")
    return f"hook {_field(event, 'plugin')} ({_field(event, 'hook')}): {told}"


def _task_started(event: EventRecord) -> str:
    number = event.data.get("number", 1)
    return "started" if number == 1 else f"started again (attempt {number})"


def _tool_started(event: EventRecord) -> str | None:
    tool = _field(event, "tool")
    # Handing in a result has a line of its own.
    return None if tool == "submit_result" else f"{tool} {_field(event, 'target')}"


def _tool_ended(event: EventRecord) -> str | None:
    tool = _field(event, "tool")
    return None if event.data.get("ok", True) or tool == "submit_result" else f"{tool} failed"


def _asks(event: EventRecord) -> str:
    choices = event.data.get("choices") or ()
    among = f" ({', '.join(map(str, choices))})" if choices else ""
    return f"asks: {_field(event, 'question')}{printable(among)}; answer it with respond"


def _goes_on(event: EventRecord) -> str | None:
    outcome = _field(event, "outcome")
    # An answer has a line of its own.
    return None if outcome == "answered" else f"goes on{f' without an answer ({outcome})' if outcome else ''}"


def _came_of_it(event: EventRecord) -> str:
    said = [str(event.data[key]) for key in ("outcome", "reason") if event.data.get(key)]
    return f": {printable('; '.join(said))}" if said else ""


def _held(event: EventRecord) -> str:
    until = event.data.get("until")
    at = f", until {clock_text(until)} at the latest" if isinstance(until, int | float) else ""
    return f"results wait for the others of their group{at}"


_NOTABLE: Final[Mapping[str, Callable[[EventRecord], str | None]]] = {
    "run.started": lambda event: "started",
    "events.left_out": lambda event: (
        f"{_field(event, 'events')} events up to number {event.seq} are not kept: {_field(event, 'because')}"
    ),
    "run.blocked": lambda event: "waits for a decision" + _because(event),
    "run.unblocked": lambda event: "goes on",
    f"run.{RunState.COMPLETED}": lambda event: "completed",
    "runtime.resolved": _resolved,
    f"run.{RunState.FAILED}": _run_failed,
    f"run.{RunState.CANCELLED}": lambda event: "cancelled" + _because(event),
    "task.started": _task_started,
    "task.waiting": _asks,
    "question.answered": lambda event: f"has its answer: {_field(event, 'answer')}",
    "task.resumed": _goes_on,
    "task.retry_due": lambda event: "will be tried again" + _because(event),
    "run.imported": lambda event: (
        f"imported from {_field(event, 'source')} ({_field(event, 'state')} when it was exported)"
    ),
    "task.given_up": lambda event: (
        f"given up: {given_up_text(_field(event, 'reason'))}; to try it again: crew deadletters"
    ),
    "dead_letter.dropped": lambda event: f"dropped from the dead letters by {event.actor}",
    "task.completed": lambda event: "completed" + _spent(event),
    "task.needs_attention": _attention,
    "task.failed": lambda event: "failed" + _spent(event) + _because(event),
    "task.cancelled": lambda event: "cancelled" + _because(event),
    "task.skipped": lambda event: "skipped" + _because(event),
    "attempt.lost": lambda event: "lost" + _because(event),
    "session.tool_started": _tool_started,
    "session.tool_ended": _tool_ended,
    "session.reminded": lambda event: f"asked for its result ({_field(event, 'n')} of {_field(event, 'of')})",
    "session.tool_progress": lambda event: f"{_field(event, 'tool')}: {_field(event, 'text')}",
    "session.mcp_server": lambda event: (
        f"MCP server {_field(event, 'server')} {_field(event, 'state').replace('_', ' ')}: "
        f"{_field(event, 'text')}"
    ),
    "session.retrying": lambda event: (
        f"model call failed, trying again ({_field(event, 'try')} of {_field(event, 'of')}): "
        f"{_field(event, 'error')}"
    ),
    "session.limit_reached": lambda event: f"reached its limit: {_field(event, 'limit')}",
    "session.note": lambda event: _field(event, "text"),
    "session.plugin_acted": _plugin_acted,
    "hook.executed": _hook_executed,
    "result.rejected": lambda event: f"result rejected: {_field(event, 'error')}",
    "delivery.held": _held,
    "delivery.sent": lambda event: (
        "the result goes to the conversation that asked for it" if event.task_id is None else None
    ),
    "session.woken": lambda event: f"woken by {', '.join(event.data.get('by', ()))}",
    "session.rested": lambda event: f"rests again ({_field(event, 'outcome')})",
    "message.sent": lambda event: f"wrote to {_field(event, 'to')}",
    "message.failed": lambda event: f"message failed: {_field(event, 'reason')}",
    "control.requested": lambda event: f"{_field(event, 'verb')} requested by {event.actor}",
    "control.applied": lambda event: f"{_field(event, 'verb')} done{_came_of_it(event)}",
    "control.refused": lambda event: f"{_field(event, 'verb')} refused: {_field(event, 'reason')}",
}
