"""What stays of a conversation that has grown too long for its model. Pure.

The first message (task, acceptance and result schema) and everything that no model has seen yet stay
word for word; of the rest the newest steps that fit, each whole: an answer with its calls and their
results (`said_before` gives a call that was never answered a result that says so). What is left
out is counted, and the caller keeps the whole and names where it is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from crew_plugin.models.records import TranscriptEntry

__all__ = [
    "COMPACT_SHARE",
    "MAX_IN_A_ROW",
    "Cut",
    "chars_per_token",
    "cut",
    "document",
    "note",
    "room_for",
    "size_of",
    "touched_files",
]

COMPACT_SHARE: Final = 0.75
"""A conversation that fills this much of its model's window is compacted at its next step."""
MAX_IN_A_ROW: Final = 3
"""How often in a row an overflow is answered by keeping less, before the session ends over it."""
_KEEP_SHARE: Final = 0.4
"""How much of the window a conversation may fill again after it was compacted."""
_LEAST_RESULT: Final = 2_000
_USUAL_CHARS: Final = 3.5
"""Characters of a token, where nothing was counted yet."""
_LISTED_FILES: Final = 40
_EDITS: Final = frozenset({"edit", "write"})
_TOLD: Final = frozenset({"user", "assistant", "tool"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A conversation as it goes on."""

    kept: tuple[TranscriptEntry, ...]
    left_out: int
    """Messages that are not in it any more."""
    shortened: int
    """Tool results of which only both ends are."""
    before: int
    after: int
    """Characters."""


def room_for(window: int, per_token: float, fixed: int, failures: int) -> int:
    """Characters that the history may have: its share of the window without what is sent with
    every call (`fixed` characters), and half of it after each overflow in a row."""
    whole = int(window * per_token * _KEEP_SHARE) >> failures
    return max(_LEAST_RESULT, whole - fixed)


def chars_per_token(chars: int, tokens: int) -> float:
    """What a token of this conversation is worth, as counted; the usual where nothing was."""
    return min(8.0, max(1.0, chars / tokens)) if tokens else _USUAL_CHARS


def cut(
    entries: Sequence[TranscriptEntry], room: int, *, task: TranscriptEntry | None = None, untaken: int = 0
) -> Cut:
    """The conversation with the newest steps that fit into `room` characters.

    The last `untaken` texts that were said to the session have met no model call yet, although an answer
    may stand after them: they are kept, at the end.
    `task` is kept beside the first message, where a session goes on with an earlier one for a new
    task. The newest step stays in any case; a result in it that is too long keeps both ends.
    """
    told = [entry for entry in entries if entry.role in _TOLD]
    before = sum(map(size_of, told))
    first, rest = told[:1], told[1:]
    steps, unseen = _steps(rest, untaken)
    room -= sum(map(size_of, [*first, *unseen]))
    kept: list[list[TranscriptEntry]] = []
    for step in reversed(steps):
        size = sum(map(size_of, step))
        if size > room and kept:
            break
        kept.insert(0, step)
        room -= size
    shortened = 0
    if kept and room < 0:
        kept[0], shortened = _shortened(kept[0], sum(map(size_of, kept[0])) + room)
    later = [*(entry for step in kept for entry in step), *unseen]
    pinned = [task] if task is not None and task not in [*first, *later] else []
    flat = [*first, *pinned, *later]
    return Cut(
        kept=tuple(flat),
        left_out=len(told) - len(flat),
        shortened=shortened,
        before=before,
        after=sum(map(size_of, flat)),
    )


def touched_files(entries: Sequence[TranscriptEntry]) -> tuple[str, ...]:
    """The files that the session has edited or written, each once, in the order of its last change."""
    calls: dict[str, str] = {}
    files: dict[str, None] = {}
    for entry in entries:
        for call in _calls(entry):
            if call.get("name") in _EDITS and (path := _path(str(call.get("arguments", "")))):
                calls[str(call.get("id"))] = path
        done = entry.role == "tool" and entry.data.get("ok", True)
        path = calls.get(str(entry.data.get("call_id"))) if done else None
        if path is not None:
            files.pop(path, None)
            files[path] = None
    return tuple(files)


def document(entries: Sequence[TranscriptEntry]) -> str:
    """The conversation as a text that can be searched and read by line."""
    lines: list[str] = []
    for entry in entries:
        name = f" {entry.data['name']}" if entry.data.get("name") else ""
        lines.append(f"--- {entry.role}{name}")
        if entry.content:
            lines.append(entry.content)
        lines += [f"calls {call.get('name')} {call.get('arguments')}" for call in _calls(entry)]
    return "\n".join(lines) + "\n"


def note(made: Cut, *, whole: str, files: Sequence[str], sections: Sequence[str] = ()) -> str:
    """What the session is told when it goes on."""
    parts = [
        "Your conversation had grown too long for the model and was shortened by the crew. Your task, its "
        "result schema and every message that you had not seen yet stand unchanged above.",
        f"Left out: {made.left_out} of your earlier messages"
        + (f"; of {made.shortened} tool results only both ends were kept" if made.shortened else "")
        + f". The whole conversation is kept as {whole}; read there what you need again instead of "
        "repeating work.",
    ]
    if files:
        shown = list(files)[-_LISTED_FILES:]
        more = f"; and {len(files) - len(shown)} before those" if len(shown) < len(files) else ""
        parts.append("Files that you have changed so far: " + ", ".join(shown) + more + ".")
    if sections:
        parts.append("Sections that you have handed in and that stay handed in: " + ", ".join(sections) + ".")
    parts.append("Go on with your task where you were.")
    return "\n".join(parts)


def _steps(
    entries: Sequence[TranscriptEntry], untaken: int
) -> tuple[list[list[TranscriptEntry]], list[TranscriptEntry]]:
    """The steps of a conversation, each an answer with the results of its calls and what was said
    to it after; and what no model has seen: the last `untaken` texts, and those since the last answer."""
    steps: list[list[TranscriptEntry]] = []
    opening: list[TranscriptEntry] = []
    texts = [place for place, entry in enumerate(entries) if entry.role == "user"]
    late = set(texts[-untaken:] if untaken else ())
    for place, entry in enumerate(entries):
        if place in late:
            continue
        if entry.role == "assistant":
            steps.append([entry])
        elif steps:
            steps[-1].append(entry)
        else:
            opening.append(entry)
    kept = [entries[place] for place in sorted(late)]
    if not steps:
        return [], [*opening, *kept]
    last = steps[-1]
    unseen = [*(entry for entry in last if entry.role == "user"), *kept]
    steps[-1] = [entry for entry in last if entry.role != "user"]
    if opening:
        steps.insert(0, opening)
    return steps, unseen


def _shortened(step: list[TranscriptEntry], room: int) -> tuple[list[TranscriptEntry], int]:
    """A step whose long results keep their first and last lines, so that it fits if it can."""
    results = [entry for entry in step if entry.role == "tool"]
    fixed = sum(map(size_of, step)) - sum(len(entry.content) for entry in results)
    share = max(_LEAST_RESULT, (room - fixed) // max(1, len(results)))
    shortened = 0
    kept: list[TranscriptEntry] = []
    for entry in step:
        if entry.role == "tool" and len(entry.content) > share:
            entry = replace(entry, content=_both_ends(entry.content, share))
            shortened += 1
        kept.append(entry)
    return kept, shortened


def _both_ends(text: str, limit: int) -> str:
    """Whole lines of both ends, with the number of characters between them."""
    half = limit // 2
    head, tail = text[:half], text[-half:]
    # A line that alone is longer than this is cut, and said to be.
    head = head[: head.rfind("\n") + 1] or head
    tail = tail[tail.find("\n") + 1 :] or tail
    gone = len(text) - len(head) - len(tail)
    return f"{head}\n[... {gone} characters left out here when the conversation was shortened ...]\n{tail}"


def _calls(entry: TranscriptEntry) -> Sequence[Mapping[str, Any]]:
    return cast("Sequence[Mapping[str, Any]]", entry.data.get("tool_calls") or ())


def _path(arguments: str) -> str | None:
    try:
        values: object = json.loads(arguments)
    except ValueError:
        return None
    found = cast("dict[str, object]", values) if isinstance(values, dict) else {}
    path = found.get("path") or found.get("file_path")
    return path if isinstance(path, str) else None


def size_of(entry: TranscriptEntry) -> int:
    """Characters of a message, its calls included."""
    return len(entry.content) + sum(
        len(str(call.get("arguments", ""))) + len(str(call.get("name", ""))) for call in _calls(entry)
    )
