"""What the destructive actions of `team` have in common: `confirm` and `intent`."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from crew_plugin.consent import IN_CALL, Consent, need_consent
from crew_plugin.engine.cancel import Wish, stops_foreign
from crew_plugin.models.causes import Cause
from crew_plugin.store.liveness import current_owner
from crew_plugin.ui.text import one_line
from crew_tools.params import Params

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["Destructive", "need_confirmation", "need_confirmed_force"]


class Destructive(Params):
    """Base of the parameters of an action that may end somebody else's work, or delete something."""

    confirm: bool = Field(
        default=False,
        description="Do what cannot be undone. Without it the answer says what would be done.",
    )
    intent: str | None = Field(
        default=None,
        description="Why, in a few words; for what needs confirm, where the settings ask for it.",
    )


def need_confirmation(crew: "Crew", deed: str, params: Destructive) -> str:
    """The intent, to be written into the event. Raises `NotConfirmed`: nothing may be changed."""
    return need_consent(
        deed,
        Consent(confirmed=params.confirm, intent=params.intent),
        intent_needed=crew.settings.safety.intent,
        spelling=IN_CALL,
    )


async def need_confirmed_force(crew: "Crew", wish: Wish, params: Destructive) -> Cause:
    """Why it is stopped, with the intent. Raises `NotConfirmed` where somebody else's run would be."""
    deed = await crew.writer.read(lambda store: stops_foreign(store, wish, current_owner()))
    intent = params.intent if deed is None else need_confirmation(crew, deed, params)
    if not intent:
        return wish.cause
    return replace(wish.cause, message=one_line(f"{wish.cause.message} (intent: {intent})", 1000))
