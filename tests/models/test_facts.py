"""What is known of models, and what follows from not knowing."""

import pytest

from crew_plugin.models.facts import ModelFacts, ModelTable
from crew_plugin.models.records import Usage

TABLE = ModelTable(
    facts={
        "gpt-5": ModelFacts(window=400_000, input_usd=1.0, output_usd=10.0, cached_usd=0.1),
        "openai:small": ModelFacts(window=8_000),
        "half": ModelFacts(input_usd=1.0),
        "uncached": ModelFacts(input_usd=1.0, output_usd=1.0),
    },
    window=100_000,
)
USED = Usage(input=1_000_000, output=100_000, cached=500_000, calls=3)


@pytest.mark.parametrize(
    ("names", "window"),
    [
        (("gpt-5",), 400_000),
        ((None, "openai:gpt-5"), 400_000),
        (("openai:small",), 8_000),
        (("unheard-of", "gpt-5"), 400_000),
        (("uncached",), 100_000),
        ((), 100_000),
    ],
)
def test_a_window_is_found_by_any_name_of_the_model(names: tuple[str | None, ...], window: int) -> None:
    assert TABLE.window_of(*names) == window


def test_cached_tokens_are_counted_at_their_own_price() -> None:
    assert TABLE.cost_of(USED, "openai:gpt-5") == pytest.approx(0.5 + 0.05 + 1.0)


@pytest.mark.parametrize("name", ["unheard-of", "openai:small", "half", "uncached"])
def test_where_a_price_that_is_needed_is_missing_no_cost_is_told(name: str) -> None:
    assert TABLE.cost_of(USED, name) is None


def test_what_the_provider_says_it_cost_counts_more_than_the_table() -> None:
    assert TABLE.cost_of(Usage(input=5, calls=1, cost=0.25), "gpt-5") == 0.25


def test_the_sum_of_a_known_and_an_unknown_cost_is_unknown() -> None:
    known, unknown = Usage(calls=1, cost=0.5), Usage(calls=1)
    assert (known + unknown).cost is None
    assert (known + known).cost == 1.0
    assert (Usage() + known).cost == 0.5
