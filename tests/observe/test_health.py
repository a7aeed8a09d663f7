"""Ratings of sessions, and supervisors whose count stands still."""

import pytest

from crew_plugin.models.records import Counts
from crew_plugin.observe.health import Heartbeats, Rating, rate, silence_limit, worst


@pytest.mark.parametrize(
    ("counts", "silent", "rating"),
    [
        (Counts(), 0.0, Rating.HEALTHY),
        (Counts(), 59.9, Rating.HEALTHY),
        (Counts(), 60.0, Rating.QUIET),
        (Counts(), 225.0, Rating.STUCK),
        (Counts(recent=10, recent_errors=4), 0.0, Rating.HEALTHY),
        (Counts(recent=6, recent_errors=5), 0.0, Rating.ERRORING),
        (Counts(context=89, window=100), 0.0, Rating.HEALTHY),
        (Counts(context=90, window=100), 0.0, Rating.FULL),
        (Counts(context=90, window=0), 0.0, Rating.HEALTHY),
        (Counts(recent=10, recent_errors=9, context=99, window=100), 299.0, Rating.STUCK),
    ],
)
def test_a_session_is_rated_by_its_silence_its_failures_and_its_context(
    counts: Counts, silent: float, rating: Rating
) -> None:
    assert rate(counts, silent=silent, limit=300).rating is rating


def test_everything_that_is_wrong_is_named_and_the_worst_of_it_is_the_rating() -> None:
    verdict = rate(Counts(recent=10, recent_errors=9, context=99, window=100), silent=70, limit=300)
    assert verdict.rating is Rating.ERRORING
    assert verdict.why == (
        "no sign of life for 70 s",
        "9 of the last 10 calls failed",
        "its context is 99% full",
    )


def test_a_session_inside_a_tool_may_be_silent_as_long_as_a_tool_may_take() -> None:
    limits = {"idle_seconds": 30.0, "tool_seconds": 900.0}
    assert (silence_limit(limits, in_tool=False), silence_limit(limits, in_tool=True)) == (30.0, 900.0)
    assert silence_limit({}, in_tool=False) == 300.0


def test_a_count_that_stands_still_is_measured_on_the_watchers_own_clock() -> None:
    beats = Heartbeats()
    assert beats.note("r", 1, 5, now=100.0) == 0.0
    assert beats.note("r", 1, 5, now=107.5) == 7.5
    assert beats.note("r", 1, 6, now=108.0) == 0.0
    assert beats.note("r", 2, 6, now=120.0) == 0.0, "another supervisor took it over"
    assert beats.note("other", 1, 5, now=120.0) == 0.0


def test_the_worst_of_no_ratings_is_healthy() -> None:
    assert worst([]) is Rating.HEALTHY
    assert worst([Rating.QUIET, Rating.STUCK, Rating.HEALTHY]) is Rating.STUCK
