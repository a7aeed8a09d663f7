"""`deadletters`: tasks that were given up although their failure may pass."""

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from crew_plugin.cli.confirm import need_confirmation
from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place, program, terminal_width
from crew_plugin.consent import Consent
from crew_plugin.engine.deadletters import ALL, deed_of_dropping, drop_letters, keys_by_run, open_letters
from crew_plugin.errors import CrewError, HostUnsupported, InvalidValue, NotAllowed
from crew_plugin.models.records import DeadLetter
from crew_plugin.store.liveness import current_owner
from crew_plugin.ui.deadletters import dead_letters_text
from crew_plugin.ui.shapes import dead_letter_json

if TYPE_CHECKING:
    from crew_plugin.store.port import RunStore

__all__ = ["deadletters"]

ACTOR: Final = "operator"
_LIST, _REQUEUE, _DROP = "list", "requeue", "drop"


def deadletters(
    *,
    place: Place,
    json: bool,
    what: str,
    which: str | None,
    all: bool,  # noqa: A002 - the option's name
    detach: bool,
    force: bool,
    yes: bool,
    intent: str | None,
    quiet: bool,
) -> int:
    """List the dead letters, queue their tasks again, or let them go."""
    if what == _LIST:
        return _listed(place, which, closed_too=all, as_json=json)
    if what not in (_REQUEUE, _DROP):
        raise InvalidValue("deadletters", what, (_LIST, _REQUEUE, _DROP))
    if which is None:
        raise NotAllowed(f"say which: a dead letter's id, a run, or {ALL}")
    with place.reading() as store:
        letters = open_letters(store, which)
    if not letters:
        raise NotAllowed("no task waits for somebody to try it again")
    if what == _DROP:
        return _dropped(place, letters, Consent(confirmed=yes, intent=intent), force=force, as_json=json)
    return _requeued(place, letters, detach=detach, force=force, as_json=json, quiet=quiet)


def _listed(place: Place, which: str | None, *, closed_too: bool, as_json: bool) -> int:
    closed_too = closed_too or (which or "").startswith("dead_")
    with place.reading() as store:
        letters = _all_of(store, which) if closed_too else open_letters(store, which)
    if as_json:
        print_json({"dead_letters": [dead_letter_json(letter) for letter in letters]})
    elif not letters:
        print("no task was given up" if closed_too else "no task waits for somebody to try it again")
    else:
        print(dead_letters_text(letters, width=terminal_width()))
        if not closed_too:
            crew, where = f"{program()} deadletters", place.options()
            print(f"try again: {crew} requeue ID{where}\nlet go:    {crew} drop ID{where}")
    return Exit.OK


def _all_of(store: "RunStore", which: str | None) -> list[DeadLetter]:
    if which is None or which == ALL:
        return store.list_dead_letters()
    if which.startswith("dead_"):
        return [store.load_dead_letter(which)]
    return store.list_dead_letters(store.load_run(which).id)


def _dropped(place: Place, letters: list[DeadLetter], consent: Consent, *, force: bool, as_json: bool) -> int:
    from crew_plugin.store.sqlite import SqliteStore

    why = need_confirmation(place, deed_of_dropping(letters), consent)
    with closing(SqliteStore.open(place.find())) as store:
        dropped = drop_letters(
            store, letters, actor=ACTOR, reason=why, caller=None, me=current_owner(), force=force
        )
    if as_json:
        print_json({"dropped": [dead_letter_json(letter) for letter in dropped]})
    else:
        print(f"{len(dropped)} dropped; the tasks stay as they ended, and so do their results")
    return Exit.OK


def _requeued(
    place: Place, letters: list[DeadLetter], *, detach: bool, force: bool, as_json: bool, quiet: bool
) -> int:
    from crew_plugin.cli.retry import retry

    keys = keys_by_run(letters)
    if detach:
        return _in_background(place, keys, force=force, as_json=as_json)
    if len(keys) > 1:
        raise InvalidValue(
            "deadletters requeue",
            f"{len(keys)} runs",
            f"of one run, which is driven here ({', '.join(keys)}); --detach takes several",
        )
    ((run_id, tasks),) = keys.items()
    return retry(
        place=place,
        json=as_json,
        run=run_id,
        tasks=list(tasks),
        model=None,
        text=None,
        force=force,
        quiet=quiet,
    )


def _in_background(place: Place, keys: Mapping[str, tuple[str, ...]], *, force: bool, as_json: bool) -> int:
    """Each run goes on in a process of its own. One that cannot keeps no other from it."""
    from crew_plugin.detached.start import can_detach
    from crew_plugin.hosting import load_checkup, need_model

    if not can_detach():
        raise HostUnsupported("this system has no processes without a terminal; leave --detach out")
    need_model(load_checkup().report())
    told = [_one_in_background(place, run_id, tasks, force=force) for run_id, tasks in keys.items()]
    if as_json:
        print_json({"requeued": told})
    else:
        for each in told:
            how = f"is not tried again: {each['error']}" if each["error"] else "tries again in the background"
            print(f"run {each['run_id']} {how}: {', '.join(each['tasks'])}")
    return Exit.FAILED if any(each["error"] for each in told) else Exit.OK


def _one_in_background(place: Place, run_id: str, tasks: tuple[str, ...], *, force: bool) -> dict[str, Any]:
    from crew_plugin.cli.retry import asked_to_retry
    from crew_plugin.detached.start import start_detached
    from crew_plugin.engine.retry import Again

    with place.reading_run(run_id) as (store, _):
        force = force or store.load_run(run_id).parent is None
    error = None
    try:
        again = Again(run=run_id, actor=ACTOR, tasks=tasks, force=force)
        if not asked_to_retry(place, again).in_place:
            start_detached(place.find(), run_id)
    except CrewError as failure:
        error = str(failure)
    return {"run_id": run_id, "tasks": list(tasks), "error": error}
