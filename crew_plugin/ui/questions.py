"""Questions of sessions as text: what is asked, until when, and what to do to answer."""

import time
from collections.abc import Callable, Sequence

from crew_plugin.models.questions import QuestionRecord
from crew_plugin.ui.text import one_line

__all__ = ["questions_text"]

_SHOWN = 1_000


def questions_text(questions: Sequence[QuestionRecord], how: Callable[[QuestionRecord], str]) -> str:
    """Open questions; `how` says what answers one. Empty if there are none."""
    lines: list[str] = []
    for question in questions:
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(question.expires_at))
        lines.append(
            f"{question.run_id} {question.key} asks (until {until}): {one_line(question.text, _SHOWN)}"
        )
        if question.choices:
            lines.append("  choices: " + ", ".join(one_line(choice) for choice in question.choices))
        if question.default is not None:
            lines.append(f"  without an answer it goes on with: {one_line(question.default, 200)}")
        lines.append(f"  answer it: {how(question)}")
    return "\n".join(lines)
