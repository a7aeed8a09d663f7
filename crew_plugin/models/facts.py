"""What the settings say of models: how much they hold and what they cost.

Neither a host nor a provider tells either, so nothing is known of a model but what somebody wrote
down; a price is never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    # Some thirty records, made when they are imported; a host that loads the plugin needs none.
    from crew_plugin.models.records import Usage

__all__ = ["DEFAULT_WINDOW", "ModelFacts", "ModelTable"]

DEFAULT_WINDOW: Final = 200_000
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of one model. Prices are US dollars per million tokens."""

    window: int | None = None
    """Tokens of its context."""
    input_usd: float | None = None
    output_usd: float | None = None
    cached_usd: float | None = None
    """For input that the provider had cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """All models that something is known of, by name."""

    facts: Mapping[str, ModelFacts] = field(default_factory=dict[str, ModelFacts])
    window: int = DEFAULT_WINDOW
    """Of a model of which nothing is known."""

    def window_of(self, *names: str | None) -> int:
        """How many tokens the model of these names holds: the first name that is known counts."""
        found = self._find(names)
        return self.window if found is None or found.window is None else found.window

    def cost_of(self, usage: "Usage", *names: str | None) -> float | None:
        """What this usage costs in US dollars: what the provider said it did, else by the price of
        the model; None where a price that is needed is not known."""
        if usage.cost is not None:
            return usage.cost
        found = self._find(names)
        if found is None or found.input_usd is None or found.output_usd is None:
            return None
        cached = min(usage.cached, usage.input)
        if cached and found.cached_usd is None:
            return None
        fresh = (usage.input - cached) * found.input_usd
        return (fresh + cached * (found.cached_usd or 0.0) + usage.output * found.output_usd) / _MILLION

    def _find(self, names: tuple[str | None, ...]) -> ModelFacts | None:
        known = [name for name in names if name]
        # `openai:gpt-5` and `gpt-5` are the same model to whoever writes settings.
        for name in [*known, *(name.rpartition(":")[2] for name in known)]:
            if name in self.facts:
                return self.facts[name]
        return None
