"""`inbox`: results of background runs, and whether whoever asked for them has got them."""

from functools import cache

from crew_plugin.cli.invoke import print_json
from crew_plugin.cli.place import Place, program, terminal_width
from crew_plugin.errors import InvalidValue
from crew_plugin.observe.owed import JoinPolicy, join_policy
from crew_plugin.ui.inbox import inbox_json, inbox_text

__all__ = ["inbox"]


def inbox(*, place: Place, json: bool, limit: int, all: bool) -> int:  # noqa: A002 - the option's name
    """List what background runs owe, newest first; with `all` what was delivered too."""
    if limit < 1:
        raise InvalidValue("--limit", limit, "at least 1")

    @cache
    def policy() -> JoinPolicy:
        # Reading the settings takes longer than all the rest.
        from crew_plugin.config import load_settings

        return join_policy(load_settings(place.find().root))

    with place.reading() as store:
        rows = inbox_json(store, policy, limit=limit, everything=all)
    if json:
        print_json({"deliveries": rows})
        return 0
    print(inbox_text(rows, everything=all, width=terminal_width()))
    if rows:
        print(f"read one: {program()} show RUN [TASK]{place.options()}")
    return 0
