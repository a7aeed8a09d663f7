"""What the destructive commands have in common: `--yes`, `--intent`, and the question on a terminal."""

import sys
from dataclasses import replace
from typing import Final

from crew_plugin.cli.place import Place
from crew_plugin.consent import Consent, Spelling, need_consent

__all__ = ["need_confirmation"]

_SPELLING: Final = Spelling(confirm="--yes", intent='--intent "WHY"')
_YES: Final = frozenset({"y", "yes"})


def need_confirmation(place: Place, deed: str, consent: Consent) -> str:
    """The intent, to be written into the event. Asks the person where there is a terminal to ask
    on. Raises `NotConfirmed`: nothing may be changed."""
    from crew_plugin.config import load_settings

    settings = load_settings(place.find().root)
    return need_consent(
        deed,
        replace(consent, confirmed=consent.confirmed or _asked(deed)),
        intent_needed=settings.safety.intent,
        spelling=_SPELLING,
    )


def _asked(deed: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"this would {deed}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in _YES
