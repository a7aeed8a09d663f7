"""`inbox`: results of background runs, and whether whoever asked for them has got them."""

import time
from typing import Any

from crew_plugin.cli.invoke import print_json
from crew_plugin.cli.place import Place, program, terminal_width
from crew_plugin.errors import InvalidValue
from crew_plugin.models.records import DeliveryRecord, DeliveryState
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import columns, one_line, seconds_text

__all__ = ["inbox"]

_SAID = {
    DeliveryState.PENDING: "waits for its chat",
    DeliveryState.SENT: "handed over, not yet on the chat's record",
    DeliveryState.ACKNOWLEDGED: "delivered",
    DeliveryState.EXPIRED: "given up; still readable",
}


def inbox(*, place: Place, json: bool, limit: int, all: bool) -> int:  # noqa: A002 - the option's name
    """List what background runs owe, newest first; with `all` what was delivered too."""
    if limit < 1:
        raise InvalidValue("--limit", limit, "at least 1")
    states = () if all else tuple(set(DeliveryState) - {DeliveryState.ACKNOWLEDGED})
    with place.reading() as store:
        rows = store.list_deliveries(states=states, newest=limit)[::-1]
        told = [_told(store, row) for row in rows]
    if json:
        print_json({"deliveries": told})
    elif not told:
        print("nothing waits for anybody" if not all else "no background run has had a result yet")
    else:
        lines = [
            (
                str(row["run_id"]),
                str(row["task"] or "the run's end"),
                _SAID[DeliveryState(row["state"])],
                f"{seconds_text(time.time() - float(row['created_at']))} ago",
                one_line(str(row["summary"]), 60),
            )
            for row in told
        ]
        print("\n".join(columns(lines, width=terminal_width())))
        print(f"read one: {program()} show RUN [TASK]{place.options()}")
    return 0


def _told(store: RunStore, row: DeliveryRecord) -> dict[str, Any]:
    task = None if row.task_id is None else store.load_task(row.run_id, row.task_id).key
    if row.result_id is not None:
        summary = store.load_result(row.result_id).summary
    else:
        run = store.load_run(row.run_id)
        summary = f"{run.state}: {run.goal}"
    return {
        "id": row.id,
        "run_id": row.run_id,
        "task": task,
        "result_id": row.result_id,
        "state": str(row.state),
        "sends": row.sends,
        "host": row.parent.host,
        "session": row.parent.session,
        "created_at": row.created_at,
        "sent_at": row.sent_at,
        "acknowledged_at": row.acknowledged_at,
        "summary": summary,
    }
