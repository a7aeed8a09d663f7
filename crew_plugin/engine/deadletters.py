"""What can be done about dead letters, from wherever one is: finding them and letting them go.

Queueing one again is a retry of its task (`engine.retry`), which closes it.
"""

from collections.abc import Sequence

from crew_plugin.engine.cancel import is_foreign, whose
from crew_plugin.errors import NotAllowed, UnknownName
from crew_plugin.models.records import DeadLetter, DeadLetterState, Owner, ParentRef
from crew_plugin.store.port import RunStore

__all__ = ["ALL", "deed_of_dropping", "drop_letters", "keys_by_run", "open_letters"]

ALL = "all"
"""What is said for the open dead letters of all runs."""
_OPEN = (DeadLetterState.OPEN,)
_SHOWN = 6


def open_letters(store: RunStore, which: str | None) -> list[DeadLetter]:
    """The open dead letters that are meant, oldest first: one by its id, those of a run, or all.

    Raises:
        UnknownName: there is no such dead letter or run.
        NotAllowed: the one that was meant is not open any more.
    """
    if which is None or which == ALL:
        return store.list_dead_letters(states=_OPEN)
    try:
        run_id = store.load_run(which).id
    except UnknownName as no_run:
        try:
            letter = store.load_dead_letter(which)
        except UnknownName as no_letter:
            raise (no_letter if which.startswith("dead_") else no_run) from None
        if letter.state is not DeadLetterState.OPEN:
            raise NotAllowed(
                f"dead letter {letter.id} is {letter.state}; its task can be tried again all the same: "
                f"crew retry {letter.run_id} {letter.key}"
            ) from None
        return [letter]
    return store.list_dead_letters(run_id, states=_OPEN)


def keys_by_run(letters: Sequence[DeadLetter]) -> dict[str, tuple[str, ...]]:
    """The keys of their tasks, by run."""
    found: dict[str, tuple[str, ...]] = {}
    for letter in letters:
        found[letter.run_id] = (*found.get(letter.run_id, ()), letter.key)
    return found


def deed_of_dropping(letters: Sequence[DeadLetter]) -> str:
    """What would be done, to be confirmed."""
    named = ", ".join(f"{letter.key} of run {letter.run_id}" for letter in letters[:_SHOWN])
    more = f" and {len(letters) - _SHOWN} more" if len(letters) > _SHOWN else ""
    return (
        f"drop {len(letters)} dead letter{'s' * (len(letters) != 1)} ({named}{more}), so that nobody is "
        "reminded of them; their tasks, attempts and results stay"
    )


def drop_letters(
    store: RunStore,
    letters: Sequence[DeadLetter],
    *,
    actor: str,
    reason: str,
    caller: ParentRef | None,
    me: Owner,
    force: bool,
) -> list[DeadLetter]:
    """Let them go, all or none. Raises `NotAllowed` where one is of somebody else's run and `force`
    was not given."""
    with store.transaction():
        for run_id in keys_by_run(letters):
            run = store.load_run(run_id)
            # What no chat asked for was started by an operator, and is an operator's to drop.
            foreign = run.parent is not None if caller is None else is_foreign(run, caller, me)
            if foreign and not force:
                raise NotAllowed(f"nothing is dropped: {whose(run, 'drop its dead letters')}")
        return [store.drop_dead_letter(letter.id, actor=actor, reason=reason) for letter in letters]
