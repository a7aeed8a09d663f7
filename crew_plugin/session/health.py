"""How one session is doing, counted as it happens."""

from collections import deque
from typing import Final

from crew_plugin.models.facts import ModelTable
from crew_plugin.models.records import Counts, Usage
from crew_plugin.session.compact import COMPACT_SHARE

__all__ = ["Tally"]

_RECENT: Final = 10
_AT_LEAST_BETWEEN: Final = 3
"""Model calls after a compaction before fullness alone causes the next one."""


class Tally:
    """Is told what happens in a session; `counts` is written down with its progress."""

    def __init__(self, table: ModelTable, *, model: str | None, before: Counts | None = None) -> None:
        """`before` is what was counted of the session in another process."""
        before = before or Counts()
        self._table = table
        self._model = model
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self._turns = before.turns
        self._tool_calls = before.tool_calls
        self._tool_errors = before.tool_errors
        self._retries = before.retries
        self._model_errors = before.model_errors
        self._compactions = before.compactions
        self._context = before.context
        self._window = table.window_of(model)
        self._since_compaction = _AT_LEAST_BETWEEN
        self.calls_open = 0
        """Tool calls of the last answer that have not ended."""

    def answered(self, usage: Usage, model: str, calls: int) -> Usage:
        """A model call succeeded. Returns its usage with its cost, where that is known."""
        self._recent.append(True)
        self._since_compaction += 1
        self._context = usage.input + usage.output
        self._window = self._table.window_of(model, self._model)
        self.calls_open = calls
        return Usage(
            input=usage.input,
            output=usage.output,
            cached=usage.cached,
            calls=usage.calls,
            cost=self._table.cost_of(usage, model, self._model),
        )

    def retrying(self) -> None:
        """A model call failed and is made again."""
        self.model_failed()
        self._retries += 1

    def model_failed(self) -> None:
        """A model call failed."""
        self._recent.append(False)
        self._model_errors += 1

    def tool_ended(self, *, ok: bool) -> None:
        """A tool call ended."""
        self._recent.append(ok)
        self._tool_calls += 1
        self._tool_errors += not ok
        self.calls_open = max(0, self.calls_open - 1)

    def turn_ended(self) -> None:
        """The model came to a stop."""
        self._turns += 1

    def compacted(self) -> None:
        """The conversation was shortened; how long it is now the next answer tells."""
        self._compactions += 1
        self._context = self._since_compaction = self.calls_open = 0

    @property
    def window(self) -> int:
        """Tokens that the model holds."""
        return self._window

    @property
    def context(self) -> int:
        """Tokens of the conversation at the last model call; 0 if nothing was counted."""
        return self._context

    @property
    def full(self) -> bool:
        """Whether the conversation should be compacted before its next model call."""
        due = self._context >= self._window * COMPACT_SHARE
        return due and self.calls_open == 0 and self._since_compaction >= _AT_LEAST_BETWEEN

    @property
    def counts(self) -> Counts:
        """Everything so far."""
        return Counts(
            turns=self._turns,
            tool_calls=self._tool_calls,
            tool_errors=self._tool_errors,
            retries=self._retries,
            model_errors=self._model_errors,
            recent=len(self._recent),
            recent_errors=self._recent.count(False),
            compactions=self._compactions,
            context=self._context,
            window=self._window,
        )
