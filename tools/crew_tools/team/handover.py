"""What is told to a conversation when results of its background runs are handed over: each once."""

from collections.abc import Sequence
from typing import Final

from crew_plugin.models.records import DeliveryState, RunRecord
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.observe.owed import Group
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import one_line
from crew_tools.team.answer import LIMIT, read_part

__all__ = ["handover_text"]

_NAMED: Final = 20
"""Result ids and runs that are listed; `team` lists them all."""
_LEAST: Final = 600
"""Characters of a run's answer even when very many runs are told of together."""
_SHOWN: Final = 60
"""Runs whose answers are in one message."""
_NOT_THE_USER: Final = (
    "This message comes from the crew plugin, not from the user: tell the user what matters in it."
)


def handover_text(store: RunStore, group: Group) -> str:
    """The message for what is due of a group: what went wrong first, then what is done; what goes on
    is named, and what was handed over before is not repeated."""
    told = sorted({row.run_id for row in group.due}, key=[run.id for run in group.runs].index)
    runs = sorted((run for run in group.runs if run.id in told), key=_trouble_first)
    limit = max(_LEAST, LIMIT // min(len(runs), _SHOWN))
    parts = [f"{_opening(group, runs)} {_NOT_THE_USER}\n"]
    parts += [_told(store, group, run, limit) for run in runs[:_SHOWN]]
    if len(runs) > _SHOWN:
        more = ", ".join(f"{run.id} {run.state}" for run in runs[_SHOWN:])
        parts.append(f'{len(runs) - _SHOWN} more runs; read each with action="summary": {more}')
    return "\n".join(parts)


def _opening(group: Group, runs: Sequence[RunRecord]) -> str:
    ended = [run for run in runs if run.state in RUN_TERMINAL]
    if len(group.runs) == 1 and ended:
        return (
            f"The background run {ended[0].id} that was started from this conversation has ended "
            f"({ended[0].state})."
        )
    what = (
        f"{len(ended)} of {len(group.runs)} background runs that were started together from this "
        f"conversation have ended ({_states(ended)})."
        if len(group.runs) > 1
        else f"The background run {runs[0].id} that was started from this conversation goes on."
    )
    going_on = [run for run in group.open if run.id not in {one.id for one in ended}]
    if not going_on:
        return what if len(ended) == len(group.runs) else f"{what} The others were told of before."
    names = ", ".join(f"{run.id} ({one_line(run.goal, 60)!r})" for run in going_on[:_NAMED])
    more = f" and {len(going_on) - _NAMED} more" if len(going_on) > _NAMED else ""
    rest = f" Still under way: {names}{more}." if len(group.runs) > 1 else ""
    return f"{what} Here is what there is so far; the rest comes by itself, do not wait for it.{rest}"


def _told(store: RunStore, group: Group, run: RunRecord, limit: int) -> str:
    rows = store.list_deliveries(run_id=run.id)
    due = {row.id for row in group.due}
    # A task that was tried again may have been told of before, with another result.
    now = {row.task_id for row in rows if row.id in due}
    before = {
        row.task_id
        for row in rows
        if row.state is DeliveryState.ACKNOWLEDGED and row.id not in due and row.task_id not in now
    }
    later = {row.task_id for row in rows if row.id not in due and row.state is DeliveryState.PENDING} - now
    answer = read_part(
        store,
        run.id,
        limit=limit,
        before=frozenset(ident for ident in before if ident is not None),
        later=frozenset(ident for ident in later if ident is not None),
    )
    results = [row.result_id for row in rows if row.id in due and row.result_id is not None]
    return f"{answer.text}{_listed(results)}\n"


def _listed(results: Sequence[str]) -> str:
    if not results:
        return ""
    more = f" and {len(results) - _NAMED} more" if len(results) > _NAMED else ""
    return f"\nresult ids: {', '.join(results[:_NAMED])}{more}"


def _trouble_first(run: RunRecord) -> int:
    if run.state in (RunState.FAILED, RunState.CANCELLED):
        return 0
    return 1 if run.state in RUN_TERMINAL else 2


def _states(runs: Sequence[RunRecord]) -> str:
    counts: dict[str, int] = {}
    for run in sorted(runs, key=_trouble_first):
        counts[str(run.state)] = counts.get(str(run.state), 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none yet"
