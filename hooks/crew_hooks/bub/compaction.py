"""When a parent's history may be cut: put off while runs are active, done when they are over.

Bub cuts a history in four ways. The model's tools and a person's comma commands can be put off; its
automatic handoff at an overflow cannot, because the history is too long already: that one is
noticed. What was put off is carried out at the end of the first turn at which nothing is active.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from crew_plugin.models.facts import ModelTable

__all__ = ["ASK", "CUTS", "FORCE", "LET_THROUGH", "Compactions", "PutOff", "asks", "forced", "put_off_text"]

CUTS: Final = frozenset({"tape.handoff", "tape.reset"})
"""Bub's tools that cut a history, as its commands name them."""
ASK: Final = 0.75
"""From this fullness on the model is asked to hand off."""
LET_THROUGH: Final = 0.95
"""From this fullness on nothing is put off."""
FORCE: Final = "force"
"""What a person adds to a command that is not to be put off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOff:
    """A cut that is to be carried out later."""

    tool: str
    arguments: Mapping[str, Any]
    runs: tuple[str, ...]
    """Those that were active; empty where that could not be found out."""
    step: str = ""
    """Bub's id of the model's step that asked for it; empty for a person's command."""


@dataclass(slots=True)
class _Session:
    tokens: int = 0
    window: int = 1
    put_off: PutOff | None = None


@dataclass(slots=True)
class Compactions:
    """How full each session of the host is, and what is put off in it."""

    table: "ModelTable"
    _sessions: dict[str, _Session] = field(default_factory=dict[str, _Session])

    def measured(self, session: str, usage: Mapping[str, Any] | None, model: str) -> None:
        """Note what a model call used."""
        if usage is None:
            return
        known = self._of(session)
        given = int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0)
        known.tokens = given + int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)
        known.window = self.table.window_of(model)

    def fullness(self, session: str) -> float:
        """The share of its model's window that a session fills; 0 where nothing was measured."""
        known = self._of(session)
        return known.tokens / known.window

    def cut(self, session: str) -> None:
        """Note that a history was cut: what was measured and what was put off is past."""
        self._sessions.pop(session, None)

    def put_off(self, session: str, cut: PutOff) -> None:
        """Keep a cut for later. The newest counts: it knows most."""
        self._of(session).put_off = cut

    def waiting(self, session: str) -> PutOff | None:
        """What is put off."""
        return self._of(session).put_off

    def lets_through(self, session: str) -> bool:
        """Whether a session is so full that nothing may be put off any more."""
        return self.fullness(session) >= LET_THROUGH

    def _of(self, session: str) -> _Session:
        return self._sessions.setdefault(session, _Session())


def forced(
    words: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[bool, tuple[str, ...], dict[str, Any]]:
    """Whether a person's command says that it is not to be put off; and the command without it."""
    said = str(options.get(FORCE, "")).lower() not in ("", "false", "0", "no") or FORCE in words
    rest = {key: value for key, value in options.items() if key != FORCE}
    return said, tuple(word for word in words if word != FORCE), rest


def put_off_text(cut: PutOff, *, prefix: str | None) -> str:
    """What whoever asked for a cut is told instead. `prefix` is that of a person's commands."""
    runs = ", ".join(cut.runs[:5]) + (f" and {len(cut.runs) - 5} more" if len(cut.runs) > 5 else "")
    reason = (
        f"runs of this conversation are active ({runs})"
        if runs
        else "the crew's store did not say in time whether runs of this conversation are active"
    )
    text = (
        f"Put off by the crew: {cut.tool} is not done now, because {reason} and what they hand in belongs to "
        "this history. It is done by itself at the end of the first turn at which none of them is active, "
        "with what you gave; there is no need to ask again."
    )
    if prefix is not None:
        return f"{text} To do it now all the same: {prefix}{cut.tool} {FORCE}=true"
    return f"{text} Go on; at {LET_THROUGH:.0%} of the context nothing is put off any more."


def asks(fullness: float, waiting: PutOff | None, *, active: bool) -> str:
    """What a model is told of its context; empty while there is room."""
    if fullness < ASK:
        return ""
    fills = f"This conversation fills {fullness:.0%} of its model's context."
    if fullness < LET_THROUGH and waiting is not None:
        return f"{fills} The handoff that was asked for is done when the active runs are over."
    when = "now" if fullness >= LET_THROUGH or not active else "at the next good moment"
    later = " It is put off until the active runs are over." if active and fullness < LET_THROUGH else ""
    return (
        f"{fills} Call tape_handoff {when}, with a summary of all that must not be lost: the goal, what "
        f"was decided, what is under way and what comes next.{later}"
    )
