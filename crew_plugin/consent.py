"""Destructive actions: what they would do is said first, and done only once somebody confirms it.

One rule for tools and commands. What ends somebody else's work or deletes something calls
`need_consent` before it changes anything.
"""

from dataclasses import dataclass

from crew_plugin.errors import NotConfirmed

__all__ = ["IN_CALL", "Consent", "Spelling", "need_consent"]

_INTENT_LENGTH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How whoever asks writes its consent."""

    confirm: str
    intent: str


IN_CALL = Spelling(confirm="confirm=true", intent='intent="WHY"')
"""For whoever calls a tool, or types in the chat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What somebody said about something destructive that it asks for."""

    confirmed: bool = False
    intent: str | None = None
    """Why it is wanted, in a few words."""

    @property
    def why(self) -> str:
        """The intent on one line, fit for an event; empty if none was given."""
        return " ".join((self.intent or "").split())[:_INTENT_LENGTH]


def need_consent(deed: str, consent: Consent, *, intent_needed: bool, spelling: Spelling) -> str:
    """Why it is done, to be written into the event; empty if nobody said so and nobody has to.

    `deed` says what would be done ("delete run X with 12 artifacts (3 MB)"); `intent_needed` is the
    setting `safety.intent`.

    Raises:
        NotConfirmed: it was not confirmed, or its intent is missing. Nothing may be changed.
    """
    missing = [spelling.intent] if intent_needed and not consent.why else []
    if not consent.confirmed:
        missing.insert(0, spelling.confirm)
    if missing:
        raise NotConfirmed(deed, " and ".join(missing))
    return consent.why
