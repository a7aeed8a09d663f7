"""Dead letters as text, for people and for models."""

import time
from collections.abc import Sequence

from crew_plugin.models.records import DeadLetter, DeadLetterState
from crew_plugin.ui.text import columns, given_up_text, one_line, seconds_text

__all__ = ["dead_letters_text"]


def dead_letters_text(letters: Sequence[DeadLetter], *, width: int | None = None) -> str:
    """A line for each: its id, its run and task, how often it was tried, when, and why it failed."""
    now = time.time()
    return "\n".join(
        columns(
            [
                (
                    letter.id,
                    letter.run_id,
                    letter.key,
                    f"{letter.attempts} attempt{'s' * (letter.attempts != 1)}",
                    _standing(letter, now),
                    one_line(f"{given_up_text(letter.reason)}: {letter.cause or 'no cause'}", 200),
                )
                for letter in letters
            ],
            width=width,
        )
    )


def _standing(letter: DeadLetter, now: float) -> str:
    if letter.state is DeadLetterState.OPEN:
        return f"{seconds_text(now - letter.created_at)} ago"
    note = f" ({one_line(letter.note, 60)})" if letter.note else ""
    return f"{letter.state} by {letter.closed_by}{note}"
