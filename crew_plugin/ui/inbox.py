"""What background runs owe to conversations, in words and as JSON."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from crew_plugin.models.records import DeliveryRecord, DeliveryState, ParentRef
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.observe.owed import JoinPolicy, group_of
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import clock_text, columns, one_line, seconds_text

__all__ = ["inbox_json", "inbox_text"]

_SAID: Final[Mapping[str, str]] = {
    DeliveryState.PENDING: "waits for its chat",
    DeliveryState.SENT: "handed over, not yet on the chat's record",
    DeliveryState.ACKNOWLEDGED: "delivered",
    DeliveryState.EXPIRED: "given up; still readable",
}
_HELD: Final = "waits for the others of its group"


def inbox_json(
    store: RunStore,
    policy: Callable[[], JoinPolicy],
    *,
    limit: int,
    everything: bool,
    parent: ParentRef | None = None,
) -> list[dict[str, Any]]:
    """Deliveries, newest first: what is owed, with `everything` what was delivered too; only those of
    `parent` where one is given. `policy` is asked only where something waits for others."""
    states = () if everything else tuple(set(DeliveryState) - {DeliveryState.ACKNOWLEDGED})
    newest = limit if parent is None else None
    rows = store.list_deliveries(parent=parent, states=states, newest=newest)[::-1][:limit]
    return [_told(store, row, policy) for row in rows]


def inbox_text(rows: Sequence[Mapping[str, Any]], *, everything: bool, width: int | None = None) -> str:
    """A line for each delivery; what is held says until when."""
    if not rows:
        return "no background run has had a result yet" if everything else "nothing waits for anybody"
    return "\n".join(columns([_line(row) for row in rows], width=width))


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    until = row["held_until"]
    said = _SAID[row["state"]] if not row["held"] else _HELD
    if until is not None:
        said += f", until {clock_text(until)} at the latest"
    return (
        str(row["run_id"]),
        str(row["task"] or "the run's end"),
        said,
        f"{seconds_text(time.time() - float(row['created_at']))} ago",
        one_line(str(row["summary"]), 60),
    )


def _told(store: RunStore, row: DeliveryRecord, policy: Callable[[], JoinPolicy]) -> dict[str, Any]:
    task = None if row.task_id is None else store.load_task(row.run_id, row.task_id).key
    run = store.load_run(row.run_id)
    summary = (
        f"{run.state}: {run.goal}" if row.result_id is None else store.load_result(row.result_id).summary
    )
    held, until = _held(store, row, policy)
    return {
        "id": row.id,
        "run_id": row.run_id,
        "task": task,
        "result_id": row.result_id,
        "state": str(row.state),
        "held": held,
        "held_until": until,
        "sends": row.sends,
        "host": row.parent.host,
        "session": row.parent.session,
        "created_at": row.created_at,
        "sent_at": row.sent_at,
        "acknowledged_at": row.acknowledged_at,
        "summary": summary,
    }


def _held(
    store: RunStore, row: DeliveryRecord, policy: Callable[[], JoinPolicy]
) -> tuple[bool, float | None]:
    """Whether it waits for others of its group, and until when."""
    if row.state is not DeliveryState.PENDING:
        return False, None
    if all(run.state in RUN_TERMINAL for run in store.list_group(row.run_id)):
        return False, None
    group = group_of(store, row.run_id, policy(), now=time.time())
    held = group is not None and row.id in {each.id for each in group.held}
    return held, group.until if held and group is not None else None
