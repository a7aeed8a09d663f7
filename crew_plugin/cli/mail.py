"""`mail`: what was said in a run, one task's boxes, acknowledging, giving again, repair."""

from collections.abc import Sequence
from contextlib import closing
from typing import Final

from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place
from crew_plugin.engine.postbox import (
    ALL,
    MailOrder,
    carry_out,
    in_box,
    may_mend,
    mend,
    what_is_wrong,
)
from crew_plugin.errors import InvalidValue, UnknownName
from crew_plugin.models.mail import MailFinding, MessageRecord
from crew_plugin.store.liveness import current_owner
from crew_plugin.ui.receipts import findings_text, mail_text
from crew_plugin.ui.shapes import finding_json, mail_json

__all__ = ["mail"]

ACTOR: Final = "operator"


def mail(
    *,
    place: Place,
    json: bool,
    run: str,
    task: str | None,
    box: str | None,
    message: str | None,
    ack: str | None,
    replay: str | None,
    repair: bool,
    dry_run: bool,
    force: bool,
) -> int:
    """List mail, show one message, or settle what is open."""
    _sensible(task, message, ack, replay, mends=repair, looks=dry_run)
    with place.reading_run(run) as (store, run_id):
        record = store.load_run(run_id)
        found = in_box(store, run_id, task, box)
        findings = what_is_wrong(store, run_id) if dry_run else []
    if message is not None:
        found = _only(found, message)
    if repair:
        if not dry_run:
            may_mend(record, None, current_owner(), force=force)
            findings = _repaired(place, run_id)
        return _say_findings(run_id, findings, done=not dry_run, as_json=json)
    if ack is not None or replay is not None:
        may_mend(record, None, current_owner(), force=force)
        order = MailOrder(run_id=run_id, actor=ACTOR, key=task, box=box, ack=ack, replay=replay)
        found = _carried_out(place, order)
    if json:
        print_json({"run_id": run_id, "mail": [mail_json(each) for each in found]})
    elif (ack or replay) and not found:
        print("no message of that box is open" if ack else "nothing that was delivered waits to be read")
    else:
        print(mail_text(found))
    return Exit.OK


def _sensible(
    task: str | None, message: str | None, ack: str | None, replay: str | None, *, mends: bool, looks: bool
) -> None:
    asked = [name for name, value in (("--ack", ack), ("--replay", replay), ("--message", message)) if value]
    asked += ["--repair"] if mends else []
    if len(asked) > 1:
        raise InvalidValue("mail", " ".join(asked), "one of them at once")
    if looks and not mends:
        raise InvalidValue("--dry-run", "given", "used with --repair")
    if ack == ALL and task is None:
        raise InvalidValue("--ack", ALL, "used with the task whose inbox it is")


def _only(found: list[MessageRecord], ident: str) -> list[MessageRecord]:
    shown = [each for each in found if each.id == ident]
    if not shown:
        raise UnknownName("message", ident, [each.id for each in found])
    return shown


def _carried_out(place: Place, order: MailOrder) -> list[MessageRecord]:
    from crew_plugin.store.sqlite import SqliteStore

    with closing(SqliteStore.open(place.find())) as store, store.transaction():
        return carry_out(store, order)


def _repaired(place: Place, run_id: str) -> list[MailFinding]:
    from crew_plugin.store.sqlite import SqliteStore

    with closing(SqliteStore.open(place.find())) as store, store.transaction():
        return mend(store, run_id, actor=ACTOR)


def _say_findings(run_id: str, findings: Sequence[MailFinding], *, done: bool, as_json: bool) -> int:
    if as_json:
        print_json(
            {"run_id": run_id, "repaired": done, "findings": [finding_json(each) for each in findings]}
        )
    else:
        print(findings_text(findings, done=done))
    return Exit.OK
