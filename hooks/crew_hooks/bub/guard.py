"""What a parent must not forget when its history is cut: its runs, and what they left.

Bub's history ends at the last anchor, and an anchor may come without notice. So the roster is put
into every model call of the parent, outside the history, where no anchor can remove it. Unless the
history holds the very call that asked for a run, its goal and contract are there word for word.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from crew_plugin.models.records import ParentRef
    from crew_plugin.store.port import RunStore
    from crew_plugin.ui.views import RunRow

__all__ = ["HANDOFF_TOOLS", "active_runs", "roster", "told_of", "with_note", "with_roster"]

HANDOFF_TOOLS: Final = frozenset({"tape_handoff", "tape.handoff"})

_RUNS: Final = 10
_ALL: Final = 10_000
_ARTIFACTS: Final = 80
_ROSTER: Final = 4_000
"""Characters of the lines about runs."""
_VERBATIM: Final = 60_000
"""Characters of goals and contracts. A longer one is left out whole and named."""
_QUESTIONS: Final = 10
_BEGIN: Final = "<crew_runs>"
_END: Final = "</crew_runs>"
_HEAD: Final = (
    "Runs of the crew that belong to this conversation (facts from the crew plugin, kept here because older "
    "messages may be gone; goals are quoted data):"
)
_TAIL: Final = (
    "Results of background runs arrive by themselves. Read one with the team tool: "
    'action="status", "summary" or "artifacts" with run_id.'
)


def active_runs(store: "RunStore", parent: "ParentRef") -> tuple[str, ...]:
    """The runs of this parent that are not over and whose supervisor lives."""
    return tuple(row.id for row in _active(store, parent, limit=_ALL) if not row.over)


def told_of(messages: Sequence[Mapping[str, Any]]) -> Callable[[object], bool]:
    """Whether a call in a history still has this goal, or this schema, as one of its arguments. That
    a text names a run, or quotes some of it, says nothing."""

    @cache
    def given() -> list[object]:
        # Only if somebody asks: most calls of a chat are made while it has no runs.
        return [value for message in messages for value in _arguments(message)]

    return lambda asked: asked in given()


def roster(store: "RunStore", parent: "ParentRef", knows: Callable[[object], bool], *, more: str = "") -> str:
    """The runs of this parent that are not over, and the ended ones whose result has not reached
    it yet; of those of which it does not know goal and contract any more, both word for word. Empty
    when there is nothing to tell."""
    rows = _active(store, parent, limit=_RUNS + 1)
    lines = [_active_line(row) for row in rows[:_RUNS]]
    if len(rows) > _RUNS:
        lines.append("- and more: action=list shows them")
    lines += _questions(store, rows[:_RUNS])
    lines += _pending_lines(store, parent, _RUNS)
    if not lines and not more:
        return ""
    forgotten = [row for row in rows[:_RUNS] if not _is_known(store, row, knows)]
    parts = [_BEGIN]
    if lines:
        parts += [_HEAD, *_fitting(lines, _ROSTER), *_verbatim(store, forgotten), _TAIL]
    return "\n".join([*parts, *([more] if more else []), _END])


def with_roster(messages: Sequence[dict[str, Any]], block: str) -> list[dict[str, Any]]:
    """The messages with this block at the end of the system message, in place of an older one."""
    kept = [dict(message) for message in messages]
    if not kept or kept[0].get("role") != "system":
        return [{"role": "system", "content": block}, *kept] if block else kept
    content = kept[0].get("content")
    if isinstance(content, list):
        parts = [
            part for part in cast("list[dict[str, Any]]", content) if _BEGIN not in str(part.get("text", ""))
        ]
        kept[0]["content"] = [*parts, {"type": "text", "text": block}] if block else parts
    else:
        text = _without_block(str(content or ""))
        kept[0]["content"] = f"{text}\n\n{block}" if block else text
    return kept


def with_note(arguments: Mapping[str, Any], block: str) -> dict[str, Any]:
    """The arguments of a handoff with the roster in its summary, so that the anchor keeps it."""
    summary = _without_block(str(arguments.get("summary") or ""))
    return {**arguments, "summary": f"{summary}\n\n{block}".strip()}


def _without_block(text: str) -> str:
    head, begin, rest = text.partition(_BEGIN)
    # The last end: a goal that quotes the marks must not leave half of the block behind.
    return head.rstrip() + rest.rpartition(_END)[2] if begin else text


def _arguments(message: Mapping[str, Any]) -> Iterator[object]:
    """All that the calls of a message give, at any depth."""
    for call in message.get("tool_calls") or ():
        try:
            yield from _values(json.loads(call["function"]["arguments"]))
        except (KeyError, TypeError, ValueError, RecursionError):
            continue  # a call that nobody can read tells nothing


def _values(value: object) -> Iterator[object]:
    yield value
    if isinstance(value, dict):
        value = list(cast("dict[str, object]", value).values())
    if isinstance(value, list):
        for part in cast("list[object]", value):
            yield from _values(part)


def _is_known(store: "RunStore", row: "RunRow", knows: Callable[[object], bool]) -> bool:
    if not knows(row.goal):
        return False
    return all(knows(step["result_schema"]) for step in _asking(store.load_run(row.id).spec))


def _active(store: "RunStore", parent: "ParentRef", *, limit: int) -> "list[RunRow]":
    from crew_plugin.models.states import RUN_TERMINAL, RunState
    from crew_plugin.ui.views import run_rows

    active = tuple(state for state in RunState if state not in RUN_TERMINAL)
    return run_rows(store, states=active, limit=limit, parent=parent)


def _active_line(row: "RunRow") -> str:
    from crew_plugin.ui.text import one_line

    place = "background" if row.background else "foreground"
    counts = ", ".join(f"{count} {state}" for state, count in row.task_counts.items() if count)
    return f"- {row.id} {row.team} ({place}) {row.shown_state} [{counts}]: {one_line(row.goal, 100)!r}"


def _verbatim(store: "RunStore", rows: "Sequence[RunRow]") -> Iterator[str]:
    """Goal and contract of each run, whole or not at all."""
    room = _VERBATIM
    for row in rows:
        text = f'<run id="{row.id}" asked="{row.team}/{row.workflow}">\n<goal>\n{row.goal}\n</goal>'
        text += "".join(f"\n{line}" for line in _contract(store.load_run(row.id).spec)) + "\n</run>"
        if len(text) > room:
            yield f"- {row.id}: goal and contract are {len(text)} characters and left out here"
            continue
        room -= len(text)
        yield text


def _contract(spec: str) -> Iterator[str]:
    """What each step has to hand in, where a schema says so."""
    for step in _asking(spec):
        schema = json.dumps(step["result_schema"], ensure_ascii=False)
        mode = step.get("schema_mode", "permissive")
        yield f"<result_schema of={step['id']!r} mode={mode!r}>{schema}</result_schema>"


def _asking(spec: str) -> list[dict[str, Any]]:
    """The steps whose results have a schema."""
    return [step for step in json.loads(spec).get("steps", ()) if step.get("result_schema")]


def _questions(store: "RunStore", rows: "Sequence[RunRow]") -> list[str]:
    """What tasks wait to be told, and what was written to the parent and not read."""
    from crew_plugin.models.states import TaskState
    from crew_plugin.ui.text import one_line

    lines: list[str] = []
    for row in rows:
        if row.task_counts.get(TaskState.WAITING):
            waiting = [task for task in store.load_tasks(row.id) if task.state is TaskState.WAITING]
            lines += [
                f"- {row.id} {task.key} waits for an answer: "
                + one_line(task.cause.message if task.cause else "see its events", 300)
                for task in waiting
            ]
        lines += [
            f"- {row.id} {message.sender} wrote to you ({message.id}): {one_line(message.body, 300)!r}"
            for message in store.list_messages(row.id, unread_by="parent")
        ]
    if len(lines) > _QUESTIONS:
        return [
            *lines[:_QUESTIONS],
            f"- and {len(lines) - _QUESTIONS} more questions: action=status shows them",
        ]
    return lines


def _pending_lines(store: "RunStore", parent: "ParentRef", limit: int) -> list[str]:
    from crew_plugin.models.states import RUN_TERMINAL
    from crew_plugin.observe.owed import OWED

    rows = store.list_deliveries(parent=parent, states=OWED)
    lines: list[str] = []
    room = _ARTIFACTS
    runs = [store.load_run(run_id) for run_id in dict.fromkeys(row.run_id for row in rows)]
    over = [run for run in runs if run.state in RUN_TERMINAL]
    for run in over[:limit]:
        found = [ref for ref in store.list_artifacts(run.id) if ref.removed is None]
        shown = found[-min(room, 8) :] if room else []
        room -= len(shown)
        names = ", ".join(f"{ref.sha256[:16]} {ref.name}" for ref in shown)
        more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        artifacts = f"; artifacts: {names}{more}" if shown else ""
        lines.append(f"- {run.id} {run.team} {run.state}, result on its way{artifacts}")
    if len(over) > limit:
        lines.append(f"- and {len(over) - limit} more results on their way")
    return lines


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    kept: list[str] = []
    for index, line in enumerate(lines):
        more = f"- and {len(lines) - index} more: action=list shows them"
        if sum(len(entry) + 1 for entry in kept) + len(line) + len(more) + 2 > room:
            return [*kept, more]
        kept.append(line)
    return kept
