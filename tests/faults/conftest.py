"""What the tests of killed processes share."""

import time

import pytest


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of the random choices: another one each time, unless it was given."""
    given: int | None = request.config.getoption("--seed")
    return time.time_ns() % 1_000_000 if given is None else given
