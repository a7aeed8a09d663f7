"""Runs as plain text: what the tools, the chat commands and the command line all print.

Nothing is shortened in silence: what is left out is counted, and the whole is named. What came
from a model loses its control characters, so that no result can write to a terminal's state.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Final

from crew_plugin.models.records import (
    ArtifactRef,
    AttemptRecord,
    Counts,
    GaveUp,
    ImportRecord,
    Usage,
)
from crew_plugin.models.removal import Removal, Thinned
from crew_plugin.models.states import TaskState
from crew_plugin.ui.shapes import TaskName
from crew_plugin.ui.views import DRY_RUN, LOST, ResultView, RunRow, RunView, TaskView

__all__ = [
    "answers_text",
    "artifacts_text",
    "attempts_text",
    "bytes_text",
    "clock_text",
    "columns",
    "day_text",
    "fair_share",
    "given_up_text",
    "model_calls_text",
    "one_line",
    "origin_text",
    "printable",
    "pruned_text",
    "result_text",
    "runs_text",
    "seconds_text",
    "shorten",
    "status_text",
    "task_note",
    "tokens_text",
]

RESULT_LIMIT: Final = 4_000
_LEAST: Final = 240
_FOLD: Final = "    "
_LEAST_FOLD: Final = 20
_FLAGS: Final = {
    "overridden": "note: the data does not fit the schema that was asked for (flag: overridden)",
    "partial": "note: the data is what was handed in by parts before the error (flag: partial)",
    "merged": "note: the data has items of earlier parts that the last call lacked (flag: merged)",
    "replaced": "note: the last call took the place of parts that said something else (flag: replaced)",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPACE = re.compile(r"\s+")


# --- small parts ---------------------------------------------------------------------------


def printable(text: str) -> str:
    """The text without characters that steer a terminal; tabs and line ends stay."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 100) -> str:
    """The text on one line, cut with an ellipsis. For labels, never for results."""
    flat = _SPACE.sub(" ", printable(text)).strip()
    return flat if len(flat) <= limit else flat[: max(0, limit - 1)].rstrip() + "…"


def shorten(text: str, limit: int, ref: ArtifactRef | str | None = None) -> str:
    """The text, or its head and tail with the number of characters left out and where the whole
    text is: an artifact, or a phrase of the caller's."""
    if len(text) <= limit:
        return text
    whole = f"artifact {ref.sha256[:16]} ({ref.name})" if isinstance(ref, ArtifactRef) else ref
    # The note itself costs room; on tiny limits at least a little of both ends stays.
    room = max(80, limit - 120)
    head, tail = text[: room * 2 // 3], text[-(room - room * 2 // 3) :]
    left_out = len(text) - len(head) - len(tail)
    if left_out <= 0:
        return text
    where = f"; whole text: {whole}" if whole else ""
    return f"{head}\n... {left_out} characters left out{where} ...\n{tail}"


def seconds_text(seconds: float | None) -> str:
    """A duration as people say it: `0.4s`, `12s`, `3m04s`, `2h05m`."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)  # a clock that was set back has shown a later time before
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def model_calls_text(calls: int, counts: Counts) -> str:
    """How often a model answered, and how often it did not."""
    failed = f"{counts.model_errors} failed" if counts.model_errors > counts.retries else ""
    again = f"{counts.retries} made again" if counts.retries else ""
    wrong = ", ".join(filter(None, (failed, again)))
    return f"{calls} model call{'' if calls == 1 else 's'}" + (f" ({wrong})" if wrong else "")


def tokens_text(usage: Usage) -> str:
    """Tokens in and out: `12.3k in, 1.1k out`; empty if none were used."""
    if not (usage.input or usage.output):
        return ""
    text = f"{_count(usage.input)} in, {_count(usage.output)} out"
    return f"{text}, ${usage.cost:.4f}" if usage.cost is not None else text


def bytes_text(size: int) -> str:
    """A size: `310 B`, `4.2 KB`."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1000:.1f} KB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


def _count(number: int) -> str:
    if number < 1000:
        return str(number)
    return f"{number / 1000:.1f}k" if number < 1_000_000 else f"{number / 1_000_000:.1f}M"


def clock_text(at: float) -> str:
    """A time of day, local: `14:05:09`."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def day_text(at: float) -> str:
    """A moment in local time: `2026-03-01 14:05`."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def columns(rows: Sequence[Sequence[str]], *, width: int | None = None) -> list[str]:
    """Columns padded to their widest cell; the last column is left as it is.

    Where that is wider than `width`, what does not fit goes to lines of its own, indented.
    """
    if not rows:
        return []
    if width is not None:
        return _folded(rows, width)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def _folded(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    import textwrap

    whole = columns(rows)
    if max(map(len, whole)) <= width:
        return whole
    beside = 1
    while beside < len(rows[0]) - 1 and max(map(len, columns([row[: beside + 1] for row in rows]))) <= width:
        beside += 1
    lines: list[str] = []
    for row, head in zip(rows, columns([row[:beside] for row in rows]), strict=True):
        rest = "  ".join(cell for cell in row[beside:] if cell)
        room = max(_LEAST_FOLD, width - len(_FOLD))
        lines += [head, *(_FOLD + line for line in textwrap.wrap(rest, room))]
    return lines


# --- runs and tasks ------------------------------------------------------------------------


def runs_text(rows: Sequence[RunRow], *, width: int | None = None) -> str:
    """A list of runs, one line each where that fits into `width`, newest first."""
    if not rows:
        return "no runs yet"
    return "\n".join(
        columns(
            [
                (
                    row.id,
                    row.shown_state,
                    f"{row.team}/{row.workflow}",
                    _counts(row.shown_counts),
                    day_text(row.created_at),
                    seconds_text(row.elapsed),
                    ("imported: " if row.imported else "") + one_line(row.goal, 60),
                )
                for row in rows
            ],
            width=width,
        )
    )


def status_text(view: RunView) -> str:
    """One run: its state, and a line for each task saying what it does, did or waits for."""
    row = view.row
    head = [f"run {row.id}  {row.shown_state}", f"{row.team}/{row.workflow}", seconds_text(row.elapsed)]
    used = tokens_text(view.usage)
    lines = ["  ".join(head), f"goal: {one_line(row.goal, 200)}", f"tasks: {_counts(row.shown_counts)}"]
    if used:
        total = reduce(add, (task.counts for task in view.tasks), Counts())
        lines.append(f"tokens: {used}; {model_calls_text(view.usage.calls, total)}")
    if row.imported is not None:
        lines.append(origin_text(row.imported))
    if row.runtime_note:
        lines.append(f"sessions: {row.runtime}; {one_line(row.runtime_note, 300)}")
    why = _why(row)
    if why:
        lines.append(why)
    table = columns(
        [
            (task.key, task.agent, task.shown_state, seconds_text(task.elapsed), task_note(task))
            for task in view.tasks
        ]
    )
    lines += [f"  {line}" for line in table]
    lines += [line for task in view.tasks if len(task.tries) > 1 for line in attempts_text(task)]
    if view.dead_letters:
        told = ", ".join(f"{letter.key} ({given_up_text(letter.reason)})" for letter in view.dead_letters)
        lines.append(f"given up: {told}")
    return "\n".join(lines)


_GAVE_UP: Final[Mapping[str, str]] = {
    GaveUp.ATTEMPTS: "tried as often as it may be",
    GaveUp.DISPATCHES: "started as often as it may be",
    GaveUp.EFFECTS: "not tried again: it had done something that cannot be repeated without thought",
}


def given_up_text(reason: str) -> str:
    """Why nothing more is tried by itself."""
    return _GAVE_UP.get(reason, reason)


def attempts_text(task: TaskView) -> list[str]:
    """A line for each attempt of a task: how it ended, with which model, at what price."""
    return [f"  {task.key} attempt {attempt.number}: {_attempt_text(attempt)}" for attempt in task.tries]


def _attempt_text(attempt: AttemptRecord) -> str:
    took = "" if attempt.ended_at is None else f" after {seconds_text(attempt.ended_at - attempt.started_at)}"
    parts = [
        f"{attempt.state}{took}",
        one_line(attempt.model_used or attempt.model_asked or "the host's model", 80),
        tokens_text(attempt.usage) or "no tokens",
    ]
    if attempt.cause is not None:
        parts.append(one_line(str(attempt.cause), 200))
    return "; ".join(parts)


def origin_text(about: ImportRecord) -> str:
    """Where an imported run came from, in one line."""
    return one_line(
        f"imported {day_text(about.imported_at)} by {about.imported_by} from {about.source}, exported "
        f"{day_text(about.exported_at)} by crew-plugin {about.made_by} when it was {about.state}",
        300,
    )


def task_note(task: TaskView) -> str:
    """What there is to say about a task in one line."""
    if task.hold:
        return one_line(f"to be decided (continue, restart or fail): {task.hold}", 160)
    if task.now:
        return one_line(task.now, 80)
    if task.waits_for:
        return "waits for " + ", ".join(task.waits_for)
    if task.state is TaskState.COMPLETED:
        return one_line(task.summary, 80)
    if task.shown_state == DRY_RUN:
        return "its prompt was written, no model was asked"
    if task.cause is not None:
        return one_line(str(task.cause), 120)
    if task.retry_at is not None:
        return _pause_text(task, task.retry_at)
    return ""


def _pause_text(task: TaskView, until: float) -> str:
    of = f" of {task.most_attempts}" if task.most_attempts else ""
    last = task.tries[-1].cause if task.tries else None
    failed = f"; {last}" if last else ""
    return one_line(f"waits until {clock_text(until)}, then attempt {task.attempts + 1}{of}{failed}", 160)


def _why(row: RunRow) -> str:
    if row.shown_state == LOST:
        pid = f" (process {row.owner.pid})" if row.owner else ""
        return (
            f"its supervisor{pid} is gone; the store still says {row.state}. Finished results are kept; "
            "resume the run to go on with it, or cancel it to close it"
        )
    return f"cause: {printable(str(row.cause))}" if row.cause is not None else ""


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"


# --- results -------------------------------------------------------------------------------


def result_text(result: ResultView, *, limit: int | None = RESULT_LIMIT) -> str:
    """One result: its text, its data and its artifacts. `limit=None` leaves nothing out."""
    record = result.record
    parts: list[str] = []
    if record.error:
        parts.append(f"the agent reports that it could not do this: {record.error}")
    if record.summary:
        parts.append(record.summary)
    if record.data is not None:
        parts.append("data: " + json.dumps(record.data, ensure_ascii=False, indent=2))
    text = printable("\n".join(parts))
    if limit is not None:
        text = shorten(text, limit, record.body)
    lines = [text] if text else []
    lines.extend(_FLAGS.get(flag, f"flag: {flag}") for flag in record.flags)
    lines.extend(
        f"artifact {ref.sha256[:16]} {one_line(name)} ({bytes_text(ref.size)})"
        for name, ref in record.artifacts.items()
    )
    return "\n".join(lines)


def answers_text(view: RunView, results: Sequence[ResultView], *, limit: int) -> str:
    """Every task with its result, or why it has none; those that never started are only named.
    Each result gets a fair part of `limit`; short ones leave room for long ones."""
    by_task = {result.task.key: result for result in results}
    texts = {key: result_text(result, limit=None) for key, result in by_task.items()}
    share = fair_share([len(text) for text in texts.values()], limit, least=_LEAST)
    parts: list[str] = []
    for task in view.tasks:
        if not task.attempts:
            continue
        lines = [f"## {task.key} ({task.agent}): {task.shown_state}"]
        result = by_task.get(task.key)
        if result is not None:
            whole = texts[task.key]
            lines.append(f"result {result.record.id}")
            lines.append(whole if len(whole) <= share else result_text(result, limit=share))
        else:
            lines.extend(_no_answer(task))
        parts.append("\n".join(lines))
    never = [f"{task.key} ({task.shown_state})" for task in view.tasks if not task.attempts]
    if never:
        parts.append("never started: " + ", ".join(never))
    return "\n\n".join(parts)


def _no_answer(task: TaskView) -> list[str]:
    if task.shown_state == DRY_RUN:
        return ["no result: its prompt was written, no model was asked"]
    lines = [] if task.cause is None else [one_line(str(task.cause), 400)]
    if task.last_text is not None:
        ref = task.last_text
        lines.append(f"no result; its last text: artifact {ref.sha256[:16]} ({bytes_text(ref.size)})")
    lines += [
        f"no result; a part of one, handed in on the way: {one_line(part.label, 60)}, artifact "
        f"{part.body.sha256[:16]} ({bytes_text(part.body.size)})"
        for part in task.sections
    ]
    if task.steps or task.counts.model_errors:
        used = tokens_text(task.usage) or "no tokens counted"
        lines.append(f"it used {model_calls_text(task.steps, task.counts)}; {used}")
    return lines


def fair_share(sizes: Iterable[int], room: int, *, least: int) -> int:
    """How much of each text may be shown: the sum of min(size, share) stays within the room, except
    that no text is cut below `least`."""
    left, ordered = room, sorted(sizes)
    for index, size in enumerate(ordered):
        share = left // (len(ordered) - index)
        if size > share:
            return max(least, share)
        left -= size
    return max(least, *ordered, 0)


# --- artifacts and events ------------------------------------------------------------------


def artifacts_text(refs: Sequence[ArtifactRef], names: Mapping[str, TaskName]) -> str:
    """A list of stored bodies."""
    if not refs:
        return "no artifacts"
    rows: list[tuple[str, ...]] = []
    for ref in refs:
        name = names.get(ref.task_id) if ref.task_id else None
        gone = f" ({ref.removed})" if ref.removed else ""
        rows.append(
            (ref.sha256[:16], bytes_text(ref.size), name.key if name else "-", one_line(ref.name) + gone)
        )
    return "\n".join(columns(rows))


def pruned_text(removed: Sequence[Removal], thinned: Sequence[Thinned], freed: int) -> str:
    """What came of pruning."""
    return (
        f"{len(removed):,} runs are forgotten, {len(thinned):,} have lost their details; "
        f"{freed / 1e6:,.1f} MB of bodies were freed"
    )
