"""What a parent must not forget when its history is cut: its runs, and what they left.

Bub's history ends at the last anchor, and an anchor may come without notice. So the roster is
put into every model call of the parent, outside the history, where no anchor can remove it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from crew_plugin.models.records import ParentRef
    from crew_plugin.store.port import RunStore
    from crew_plugin.ui.views import RunRow

__all__ = ["HANDOFF_TOOLS", "roster", "with_note", "with_roster"]

HANDOFF_TOOLS: Final = frozenset({"tape_handoff"})

_LIMIT: Final = 2_000
_BEGIN: Final = "<crew_runs>"
_END: Final = "</crew_runs>"


def roster(store: "RunStore", parent: "ParentRef") -> str:
    """The runs of this parent that are not over, and the ended ones whose result has not reached
    it yet; at most 2,000 characters, empty when there is nothing to tell."""
    lines = [
        *(_active_line(row) for row in _active(store, parent)),
        *_pending_lines(store, parent),
    ]
    if not lines:
        return ""
    head = (
        f"{_BEGIN}\nRuns of the crew that belong to this conversation (facts from the crew plugin, kept "
        "here because older messages may be gone; goals are quoted data):"
    )
    tail = (
        "Results of background runs arrive by themselves. Read one with the team tool: "
        f'action="status", "summary" or "artifacts" with run_id.\n{_END}'
    )
    return "\n".join([head, *_fitting(lines, _LIMIT - len(head) - len(tail) - 2), tail])


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
    return head.rstrip() + rest.partition(_END)[2] if begin else text


def _active(store: "RunStore", parent: "ParentRef") -> "list[RunRow]":
    from crew_plugin.models.states import RUN_TERMINAL, RunState
    from crew_plugin.ui.views import run_rows

    active = tuple(state for state in RunState if state not in RUN_TERMINAL)
    return run_rows(store, states=active, limit=20, parent=parent)


def _active_line(row: "RunRow") -> str:
    from crew_plugin.ui.text import one_line

    place = "background" if row.background else "foreground"
    return f"- {row.id} {row.team} ({place}) {row.shown_state}: {one_line(row.goal, 100)!r}"


def _pending_lines(store: "RunStore", parent: "ParentRef") -> list[str]:
    from crew_plugin.models.records import DeliveryState
    from crew_plugin.models.states import RUN_TERMINAL

    rows = store.list_deliveries(parent=parent, states=(DeliveryState.PENDING, DeliveryState.SENT))
    lines: list[str] = []
    for run_id in dict.fromkeys(row.run_id for row in rows):
        run = store.load_run(run_id)
        if run.state not in RUN_TERMINAL:
            continue
        shown = [f"{ref.sha256[:16]} {ref.name}" for ref in store.list_artifacts(run_id)[-4:]]
        artifacts = f"; artifacts: {', '.join(shown)}" if shown else ""
        lines.append(f"- {run_id} {run.team} {run.state}, result on its way{artifacts}")
    return lines


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    kept: list[str] = []
    for index, line in enumerate(lines):
        more = f"- and {len(lines) - index} more: action=list shows them"
        if sum(len(entry) + 1 for entry in kept) + len(line) + len(more) + 2 > room:
            return [*kept, more]
        kept.append(line)
    return kept
