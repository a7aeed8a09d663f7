"""How the sessions of a run are doing, as it is shown: read from the store, plain, ready for JSON."""

import json
import math
import textwrap
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from typing import Any, Final, cast

from crew_plugin.models.records import (
    AttemptRecord,
    Counts,
    EventRecord,
    TaskRecord,
    ToolCallRecord,
    ToolCallState,
    Usage,
)
from crew_plugin.models.states import RUN_TERMINAL, TaskState
from crew_plugin.observe.health import STALLED_SECONDS, Rating, Verdict, rate, silence_limit, worst
from crew_plugin.store.port import RunStore
from crew_plugin.ui.shapes import usage_json
from crew_plugin.ui.text import clock_text, columns, model_calls_text, one_line, seconds_text
from crew_plugin.ui.views import LOST, RunRow, all_counts, all_usage, call_text, run_view

__all__ = ["HealthView", "health_text", "health_view", "usage_text"]

STALLED = "stalled"
"""Shown for a run whose supervisor's process lives and whose renewals stand still. Derived."""

_TOGETHER: Final = 2.0
"""What a session says within a moment is written down together: its events may be so much older than
its last sign of life."""
_BESIDE: Final = frozenset({"session.waiting", "session.mcp_server", "session.plugin_acted"})
"""What a session that waits for its jobs may say without going on."""
_GOES_ON: Final = ("session.", "message.delivered")
"""How the types of all other events begin by which a session goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHealth:
    """The newest session of a task, and what all its attempts together did and used."""

    task: str
    agent: str
    state: str
    verdict: Verdict | None
    """None for one that is over, or whose supervisor is gone."""
    doing: str
    """What it does or waits for; empty for one that is over."""
    since: float | None
    """For how many seconds it has been doing that."""
    silent: float | None
    """Seconds since its last sign of life."""
    attempts: int
    steps: int
    counts: Counts
    usage: Usage
    model: str | None

    def as_json(self) -> dict[str, Any]:
        """The stable shape that `--json` prints."""
        return {
            "task": self.task,
            "agent": self.agent,
            "state": self.state,
            "rating": str(self.verdict.rating) if self.verdict else None,
            "why": list(self.verdict.why) if self.verdict else [],
            "doing": self.doing,
            "doing_seconds": self.since,
            "idle_seconds": self.silent,
            "attempts": self.attempts,
            "model": self.model,
            "model_calls": self.steps,
            **asdict(self.counts),
            "usage": usage_json(self.usage),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthView:
    """One run and all its sessions that were ever opened."""

    row: RunRow
    sessions: tuple[SessionHealth, ...]
    usage: Usage
    still: float
    """Seconds for which the reader saw its supervisor's renewals stand still."""
    stalled_after: float

    @property
    def supervisor(self) -> str:
        """`alive`, `stalled`, `lost` or `none`."""
        if self.row.state in RUN_TERMINAL or (self.row.owner is None and self.row.shown_state != LOST):
            return "none"
        if self.row.shown_state == LOST:
            return LOST
        return STALLED if self.still >= self.stalled_after else "alive"

    @property
    def shown_state(self) -> str:
        """The state as it is shown."""
        return STALLED if self.supervisor == STALLED else self.row.shown_state

    @property
    def rating(self) -> Rating:
        """That of its worst session."""
        return worst([session.verdict.rating for session in self.sessions if session.verdict])

    def as_json(self) -> dict[str, Any]:
        """The stable shape that `--json` prints."""
        return {
            "run_id": self.row.id,
            "state": str(self.row.state),
            "shown_state": self.shown_state,
            "supervisor": self.supervisor,
            "pid": self.row.owner.pid if self.row.owner else None,
            "renewals_still_seconds": round(self.still, 1),
            "rating": str(self.rating),
            "usage": usage_json(self.usage),
            "sessions": [session.as_json() for session in self.sessions],
        }


def health_view(
    store: RunStore,
    run_id: str,
    *,
    still: float = 0.0,
    stalled_after: float = STALLED_SECONDS,
    now: float | None = None,
) -> HealthView:
    """One run as it stands. `still` is what the reader saw of its renewals. Raises `UnknownName`."""
    at = time.time() if now is None else now
    view = run_view(store, run_id, now=at)
    tasks = store.load_tasks(view.id)
    opened = [(task, store.list_attempts(task.id)) for task in tasks if task.attempt_id]
    waits = _Waits(store, view.id)
    rated = {
        task.id: _session(store, task, attempts, waits, lost=view.row.over, now=at)
        # The longest silent first: what is read of the events for it is enough for the others.
        for task, attempts in sorted(opened, key=lambda each: each[1][-1].last_activity_at)
    }
    sessions = [rated[task.id] for task, _ in opened]
    return HealthView(
        row=view.row, sessions=tuple(sessions), usage=view.usage, still=still, stalled_after=stalled_after
    )


def health_text(view: HealthView, *, width: int | None = None) -> str:
    """A run's supervisor, what its sessions used, and a line for each of them. What is wrong with
    one stands below it."""
    row = view.row
    lines = [
        "  ".join(
            [f"run {row.id}  {view.shown_state}", f"{row.team}/{row.workflow}", seconds_text(row.elapsed)]
        ),
        f"supervisor: {_supervisor_text(view)}",
    ]
    if not view.sessions:
        return "\n".join([*lines, "no session was opened yet"])
    lines.append(f"sessions: {_ratings_text(view.sessions)}")
    used = f"used: {usage_text(view.usage, [session.counts for session in view.sessions])}"
    lines += [used] if width is None else textwrap.wrap(used, width, subsequent_indent="      ")
    rows = [_cells(session) for session in view.sessions]
    room = None if width is None else width - 2
    for session, line in zip(view.sessions, _grouped(rows, room), strict=True):
        lines += [f"  {part}" for part in line]
        if session.verdict:
            lines += [f"      ! {why}" for why in session.verdict.why]
    return "\n".join(lines)


def usage_text(usage: Usage, counts: Sequence[Counts]) -> str:
    """What sessions used and how often something went wrong: counts that are zero are left out."""
    cached = f" ({_tokens(usage.cached)} cached)" if usage.cached else ""
    parts = [f"{_tokens(usage.input)} tokens in{cached}, {_tokens(usage.output)} out"]
    if usage.cost is not None:
        parts.append(f"${usage.cost:.4f}")
    total = reduce(add, counts, Counts())
    parts.append(model_calls_text(usage.calls, total))
    if total.tool_calls:
        failed = f" ({total.tool_errors} failed)" if total.tool_errors else ""
        parts.append(_many(total.tool_calls, "tool call") + failed)
    if total.compactions:
        parts.append(_many(total.compactions, "compaction"))
    return ", ".join(parts)


@dataclass(slots=True)
class _Waits:
    """The waits of a run's sessions for their jobs in the background, as its events tell of them."""

    store: RunStore
    run_id: str
    _read_from: float = math.inf
    _said: dict[str, list[EventRecord]] = field(default_factory=dict[str, list[EventRecord]])
    """What sessions said and were given, by the keys of their tasks."""

    def of(self, key: str, attempt: AttemptRecord) -> tuple[EventRecord | None, float]:
        """The wait that an attempt is in, if it went silent for one and did not go on; and since when it
        has to be called silent, which for one that waits is the end of its wait."""
        known = self._since(attempt.last_activity_at - _TOGETHER).get(key, [])
        said = [event for event in known if event.attempt_id in (None, attempt.id)]
        places = [place for place, event in enumerate(said) if event.type == "session.waiting"]
        if not places:
            return None, attempt.last_activity_at
        wait = said[places[-1]]
        after = [event.at for event in said[places[-1] :] if event.type not in _BESIDE]
        if after or attempt.last_activity_at > wait.at + _TOGETHER:
            return None, max([attempt.last_activity_at, *after])
        return wait, max(attempt.last_activity_at, wait.at + float(wait.data.get("seconds", 0.0)))

    def _since(self, at: float) -> Mapping[str, list[EventRecord]]:
        if at < self._read_from:
            self._read_from = at
            self._said.clear()
            last = self.store.last_seq()
            # The numbers grow with the time: what is older is not read.
            after = bisect_left(range(last), at, key=self._time_after)
            while page := self.store.tail(self.run_id, after_seq=after):
                after = page[-1].seq
                for event in page:
                    if event.type.startswith(_GOES_ON):
                        self._said.setdefault(event.actor, []).append(event)
        return self._said

    def _time_after(self, seq: int) -> float:
        found = self.store.tail(self.run_id, after_seq=seq, limit=1)
        return found[0].at if found else math.inf


def _session(
    store: RunStore,
    task: TaskRecord,
    attempts: Sequence[AttemptRecord],
    waits: _Waits,
    *,
    lost: bool,
    now: float,
) -> SessionHealth:
    newest = attempts[-1]
    under_way = task.state in (TaskState.RUNNING, TaskState.WAITING) and newest.ended_at is None
    watched = under_way and not lost
    calls = store.list_tool_calls(newest.id) if watched else []
    open_calls = [call for call in calls if call.state is ToolCallState.STARTED]
    silent = max(0.0, now - newest.last_activity_at)
    answers = task.state is TaskState.WAITING
    looks = watched and not open_calls and not answers and silent >= _TOGETHER
    wait, quiet_from = waits.of(task.key, newest) if looks else (None, newest.last_activity_at)
    doing, since = _doing(task, open_calls, now, quiet_from) if watched else ("", None)
    if wait is not None and now < quiet_from:
        doing, since = _waited_for(wait), max(0.0, now - wait.at)
    if not lost and task.retry_at is not None and newest.ended_at is not None:
        doing = f"waits until {clock_text(task.retry_at)} for its next attempt"
        since = max(0.0, now - newest.ended_at)
    limit = silence_limit(_limits(task.spec), in_tool=bool(open_calls))
    unheard = 0.0 if answers else max(0.0, now - quiet_from)
    verdict = rate(newest.counts, silent=unheard, limit=limit) if watched else None
    return SessionHealth(
        task=task.key,
        agent=task.agent,
        state=LOST if lost and under_way else str(task.state),
        verdict=verdict,
        doing=doing,
        since=since,
        silent=silent if watched else None,
        attempts=len(attempts),
        steps=sum(attempt.steps for attempt in attempts),
        counts=all_counts(attempts),
        usage=all_usage(attempts),
        model=newest.model_used or newest.model_asked,
    )


def _doing(
    task: TaskRecord, calls: Sequence[ToolCallRecord], now: float, quiet_from: float
) -> tuple[str, float]:
    """Why a session is quiet, and for how long already."""
    if task.state is TaskState.WAITING:
        return "waits for an answer to its question", max(0.0, now - quiet_from)
    if calls:
        first = calls[0]
        more = f" and {len(calls) - 1} more" if len(calls) > 1 else ""
        return _within_tool(call_text(first)) + more, max(0.0, now - first.started_at)
    return "waits for its model", max(0.0, now - quiet_from)


def _waited_for(wait: EventRecord) -> str:
    jobs = [str(job) for job in wait.data.get("for", ())]
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return f"waits for its job {jobs[0]}{more}" if jobs else "waits for its jobs"


def _within_tool(text: str) -> str:
    return text if text.startswith("waits ") else f"in {text}"


def _object(text: str) -> Mapping[str, Any]:
    try:
        parsed: object = json.loads(text)
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", parsed) if isinstance(parsed, dict) else {}


def _limits(spec: str) -> Mapping[str, float]:
    found = _object(spec).get("limits")
    return cast("Mapping[str, float]", found) if isinstance(found, dict) else {}


def _supervisor_text(view: HealthView) -> str:
    owner = view.row.owner
    process = f"process {owner.pid}" if owner else "a process"
    match view.supervisor:
        case "alive":
            return f"{process} is alive"
        case "stalled":
            return f"{process} is there, but has not renewed its lease for {seconds_text(view.still)}"
        case "lost":
            return f"{process} is gone"
        case _:
            return "none, the run is over" if view.row.over else "none yet"


def _ratings_text(sessions: Sequence[SessionHealth]) -> str:
    rated = Counter(session.verdict.rating for session in sessions if session.verdict)
    states = Counter(session.state for session in sessions if session.verdict is None)
    parts = [f"{rated[rating]} {rating}" for rating in reversed(Rating) if rated[rating]]
    return ", ".join([*parts, *(f"{count} {state}" for state, count in states.items())])


def _cells(session: SessionHealth) -> tuple[str, ...]:
    counts, cost = session.counts, session.usage.cost
    doing = f"{one_line(session.doing, 44)}, {seconds_text(session.since)}" if session.doing else ""
    failed = f" ({counts.tool_errors} failed)" if counts.tool_errors else ""
    refused = f" ({counts.model_errors} failed)" if counts.model_errors else ""
    spent = f"{_tokens(session.usage.input)}/{_tokens(session.usage.output)}" if session.usage.calls else ""
    return (
        session.task,
        str(session.verdict.rating) if session.verdict else session.state,
        doing,
        f"{session.attempts} attempts" if session.attempts > 1 else "",
        _many(session.steps, "call") + refused if session.steps or refused else "",
        _many(counts.tool_calls, "tool") + failed if counts.tool_calls else "",
        f"context {counts.context / counts.window:.0%}" if counts.window and counts.context else "",
        spent + (f" ${cost:.4f}" if cost is not None else ""),
        session.model or "",
    )


def _grouped(rows: Sequence[tuple[str, ...]], width: int | None) -> list[list[str]]:
    """The lines of each row: one, or more where the terminal is too narrow for one."""
    whole = columns(rows)
    if width is None or max(map(len, whole)) <= width:
        return [[line] for line in whole]
    heads = columns([row[:3] for row in rows])
    rest = [_packed([cell for cell in row[3:] if cell], width - 4) for row in rows]
    return [
        [_within(line, width) for line in (head, *(f"    {part}" for part in tail))]
        for head, tail in zip(heads, rest, strict=True)
    ]


def _packed(cells: Sequence[str], width: int) -> list[str]:
    """As many of them in a line as fit."""
    lines: list[str] = []
    for cell in cells:
        if lines and len(lines[-1]) + 2 + len(cell) <= width:
            lines[-1] += f"  {cell}"
        else:
            lines.append(cell)
    return lines


def _within(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def _many(count: int, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def _tokens(number: int) -> str:
    if number < 1000:
        return str(number)
    return f"{number / 1000:.1f}k" if number < 1_000_000 else f"{number / 1_000_000:.1f}M"
