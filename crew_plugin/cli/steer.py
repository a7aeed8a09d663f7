"""`steer` and `resize`: tell one agent something, stop it, or change the width of a run."""

import time
from dataclasses import replace
from typing import Final

from crew_plugin.cli.cancel import cancel, cancelled, report_json
from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place, program
from crew_plugin.consent import Consent
from crew_plugin.engine.address import find_address, find_run
from crew_plugin.engine.cancel import CancelOutcome, CancelReport
from crew_plugin.engine.steer import Order, Say, SteerReport, ask, receipt_of, silence
from crew_plugin.errors import CallerError, InvalidValue, NotAllowed
from crew_plugin.models.records import RunRecord
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from crew_plugin.ui.receipts import receipt_text

__all__ = ["resize", "steer"]

ACTOR: Final = "operator"
_ANSWER_SECONDS: Final = 6.0
_LOOK_SECONDS: Final = 0.01
_SCOPES: Final = ("turn", "agent", "tree")


def steer(
    *,
    place: Place,
    json: bool,
    run: str,
    task: str | None,
    text: str | None,
    follow_up: bool,
    stop: str | None,
    force: bool,
    yes: bool,
    intent: str | None,
) -> int:
    """Tell one agent something, or stop it."""
    if stop is not None and stop not in _SCOPES:
        raise InvalidValue("--stop", stop, _SCOPES)
    if stop is not None and follow_up:
        raise InvalidValue("steer", "--stop and --follow-up", "one of the two")
    if stop == "tree":
        return _stop_tree(
            place, run, task, text, as_json=json, force=force, consent=Consent(confirmed=yes, intent=intent)
        )
    with place.reading() as store:
        run_id, key, said = _understood(store, run, task, text, stopping=stop is not None)
    if stop == "agent":
        return cancel(
            place=place,
            json=json,
            run=run_id,
            task=key,
            reason=said or None,
            force=force,
            yes=yes,
            intent=intent,
        )
    say = Say.INTERRUPT if stop == "turn" else Say.FOLLOW_UP if follow_up else Say.STEER
    return _carry_out(
        place, Order(run_id=run_id, say=say, actor=ACTOR, task=key, text=said), as_json=json, force=force
    )


def resize(*, place: Place, json: bool, run: str, width: str | None, force: bool) -> int:
    """Have another number of sessions of a run open at once."""
    wanted = run if width is None else width
    if not wanted.isdecimal():
        raise InvalidValue("N", wanted, "a whole number")
    with place.reading() as store:
        run_id = find_run(store, None if width is None else run).id
    order = Order(run_id=run_id, say=Say.RESIZE, actor=ACTOR, width=int(wanted))
    return _carry_out(place, order, as_json=json, force=force)


def _understood(
    store: RunStore, first: str, second: str | None, third: str | None, *, stopping: bool
) -> tuple[str, str, str]:
    """Run, task and text of `[RUN] TASK TEXT`."""
    if third is not None and second is not None:
        address = find_address(store, second, run=first)
        return address.run.id, address.task.key, third
    if stopping and second is not None and _names_task(store, first, second):
        address = find_address(store, second, run=first)
        return address.run.id, address.task.key, ""
    if second is None and not stopping:
        raise CallerError(f'there is no text; say it as the last word: {program()} steer {first} "TEXT"')
    address = find_address(store, first)
    return address.run.id, address.task.key, second or ""


def _names_task(store: RunStore, run: str, task: str) -> bool:
    try:
        find_address(store, task, run=run)
    except CallerError:
        return False
    return True


def _stop_tree(
    place: Place,
    name: str,
    task: str | None,
    text: str | None,
    *,
    as_json: bool,
    force: bool,
    consent: Consent,
) -> int:
    """Stop a whole run and what its sessions started. A word after it is why, unless it names a task."""
    with place.reading() as store:
        top = _run_of(store, name).id
        reason = text if task is None or text is not None or _names_task(store, top, task) else task
    reports: list[CancelReport] = []
    pending = [top]
    while pending:
        run_id = pending.pop(0)
        # Whoever may stop a run may stop what it started.
        started = run_id != top
        report, _ = cancelled(
            place,
            run_id,
            task=None,
            reason=reason,
            force=force or started,
            consent=replace(consent, confirmed=consent.confirmed or started),
        )
        reports.append(report)
        with place.reading() as store:
            pending += [started.id for started in store.list_started(run_id)]
    if as_json:
        print_json({"runs": [{"run_id": report.run_id, **report_json(report)} for report in reports]})
    else:
        print("\n".join(f"run {report.run_id}: {report.message}" for report in reports))
    silent = any(report.outcome is CancelOutcome.REQUESTED for report in reports)
    return Exit.FAILED if silent else Exit.OK


def _run_of(store: RunStore, name: str) -> RunRecord:
    try:
        return store.load_run(name)
    except CallerError:
        return find_address(store, name).run


def _carry_out(place: Place, order: Order, *, as_json: bool, force: bool) -> int:
    from crew_plugin.store.sqlite import SqliteStore

    store = SqliteStore.open(place.find())
    try:
        # What no chat asked for was started by an operator, and is an operator's to steer.
        own = store.load_run(order.run_id).parent is None
        report = _answered(store, replace(order, force=force or own))
    finally:
        store.close()
    if as_json:
        print_json(report.as_json())
    elif report.refused:
        raise NotAllowed(f"{report.run_id}: {report.receipt.reason}")
    elif order.task is not None:
        print(f"{report.run_id}/{receipt_text(report.receipt)}")
    else:
        done = "done" if report.reached else report.receipt.outcome
        print(f"run {report.run_id}: {done}; {report.receipt.reason}")
    return Exit.OK if report.reached else Exit.USAGE if report.refused else Exit.FAILED


def _answered(store: RunStore, order: Order) -> SteerReport:
    asked = ask(store, order, current_owner())
    deadline = time.monotonic() + _ANSWER_SECONDS
    while not isinstance(asked, SteerReport):
        report = receipt_of(store, order, asked)
        if report is not None:
            return report
        if time.monotonic() > deadline:
            return silence(store, order, asked)
        time.sleep(_LOOK_SECONDS)
    return asked
