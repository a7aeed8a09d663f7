"""The soft budget of requests to the model provider. Pure: it is told of each request."""

from enum import StrEnum
from math import ceil
from typing import Final

__all__ = ["AFTER_FORCED", "Budget", "Spent"]

_FORCED_AT: Final = 1.5
AFTER_FORCED: Final = 5
"""Requests after the session was made to hand in."""


class Spent(StrEnum):
    """What the budget asks for."""

    NOTICE = "notice"
    """Tell the session to finish."""
    FORCE = "force"
    """Stop its turn and make it hand in."""
    OVER = "over"
    """End it."""


class Budget:
    """Counts requests, those that failed too. What is due is due until it was asked for, so that it
    can wait while a submitted result is judged."""

    def __init__(self, limit: int, *, requests: int = 0) -> None:
        self.limit = limit
        self.requests = requests
        self._since: int | None = None
        self._noticed = False

    @property
    def forced_at(self) -> int:
        """At so many requests the session is made to hand in."""
        return ceil(self.limit * _FORCED_AT)

    def asked(self) -> None:
        """A request was made."""
        self.requests += 1

    def forced(self) -> None:
        """The session was made to hand in, for this or another reason."""
        if self._since is None:
            self._since = self.requests

    def due(self) -> Spent | None:
        """What is to be done now; each but the last is told once."""
        if self._since is not None:
            past = self.requests >= self.forced_at
            return Spent.OVER if past and self.requests >= self._since + AFTER_FORCED else None
        if self.requests >= self.forced_at:
            self.forced()
            return Spent.FORCE
        if self.requests >= self.limit and not self._noticed:
            self._noticed = True
            return Spent.NOTICE
        return None
