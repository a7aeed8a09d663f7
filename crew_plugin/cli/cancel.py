"""`cancel`: asks the process that supervises a run; closes the run where that process is dead."""

import time
from dataclasses import replace
from typing import Any, Final

from crew_plugin.cli.confirm import need_confirmation
from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place, program
from crew_plugin.consent import Consent
from crew_plugin.engine.cancel import (
    CancelOutcome,
    CancelReport,
    Wish,
    cancel_or_ask,
    report_answer,
    report_silence,
    stops_foreign,
)
from crew_plugin.errors import NotAllowed
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ControlRecord
from crew_plugin.store.liveness import current_owner, owner_alive
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import status_text
from crew_plugin.ui.views import RunView, run_view

__all__ = ["cancel", "cancelled", "report_json"]

ACTOR: Final = "operator"
_ANSWER_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.03


def cancel(
    *,
    place: Place,
    json: bool,
    run: str,
    task: str | None,
    reason: str | None,
    force: bool,
    yes: bool,
    intent: str | None,
) -> int:
    """Cancel a run or one of its tasks."""
    consent = Consent(confirmed=yes, intent=intent)
    report, view = cancelled(place, run, task=task, reason=reason, force=force, consent=consent)
    if json:
        print_json({**report_json(report), "run": view.as_json()})
    else:
        what = f"run {view.id}" if report.task is None else f"task {report.task} of run {view.id}"
        print(f"{what}: {report.message}")
        print(status_text(view))
        print(f"what was finished: {program()} show {view.id}{place.options()}")
    return Exit.FAILED if report.outcome is CancelOutcome.REQUESTED else Exit.OK


def cancelled(
    place: Place, run: str, *, task: str | None, reason: str | None, force: bool, consent: Consent
) -> tuple[CancelReport, RunView]:
    """What came of it, and the run as it stands now. Raises `NotAllowed`."""
    from crew_plugin.store.sqlite import SqliteStore

    with place.reading_run(run) as (_, run_id):
        pass
    store = SqliteStore.open(place.find())
    try:
        record = store.load_run(run_id)
        message = f"cancelled from the command line{f': {reason}' if reason else ''}"
        wish = Wish(
            run_id=run_id,
            cause=Cause(code=CauseCode.CALLER_CANCELLED, message=message),
            actor=ACTOR,
            # What no chat asked for was started by an operator, and is an operator's to stop.
            force=force or record.parent is None,
            task=None if task is None else store.load_task(run_id, task).key,
        )
        if record.parent is not None:
            wish = _confirmed(place, store, wish, consent)
        report = _carry_out(store, wish)
        view = run_view(store, run_id)
    finally:
        store.close()
    if report.outcome is CancelOutcome.REFUSED:
        raise NotAllowed(f"{report.message}: {program()} cancel {run_id} --force --yes")
    return report, view


def _confirmed(place: Place, store: RunStore, wish: Wish, consent: Consent) -> Wish:
    """The wish with its intent. Raises `NotConfirmed` where it would stop what is somebody else's."""
    deed = stops_foreign(store, wish, current_owner())
    if deed is None:
        return wish
    intent = need_confirmation(place, deed, consent)
    said = f"{wish.cause.message} (intent: {intent})" if intent else wish.cause.message
    return replace(wish, cause=replace(wish.cause, message=said))


def _carry_out(store: RunStore, wish: Wish) -> CancelReport:
    """Close it, or ask its supervisor and wait for the answer, within bounds."""
    answer = cancel_or_ask(store, wish, current_owner())
    deadline = time.monotonic() + _ANSWER_SECONDS
    while isinstance(answer, ControlRecord):
        report = report_answer(store, wish, answer)
        if report is not None:
            return report
        owner = store.load_run(wish.run_id).owner
        if owner is not None and not owner_alive(owner):
            # It died while it was asked.
            answer = cancel_or_ask(store, wish, current_owner())
        elif time.monotonic() > deadline:
            return report_silence(store, wish)
        else:
            time.sleep(_LOOK_SECONDS)
    return answer


def report_json(report: CancelReport) -> dict[str, Any]:
    """The report as a JSON object."""
    return {
        "outcome": str(report.outcome),
        "message": report.message,
        "task": report.task,
        "state": str(report.state),
    }
