"""The clocks that a session is held to, read at times that the test names."""

from crew_plugin.models.causes import CauseCode
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.session.limits import Deadlines, Hit

LIMITS = LimitsSpec(idle_seconds=10, wall_seconds=100)


def code(hit: Hit | None) -> CauseCode | None:
    return hit.cause.code if hit is not None else None


def test_silence_ends_a_session_after_its_idle_limit() -> None:
    clock = Deadlines(LIMITS, 0)
    assert clock.hit(9.9) is None
    assert code(clock.hit(10)) is CauseCode.WORKER_TIMEOUT


def test_a_sign_of_life_starts_the_idle_clock_again() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.alive(8)
    assert clock.hit(17.9) is None
    assert code(clock.hit(18)) is CauseCode.WORKER_TIMEOUT


def test_a_running_tool_stops_the_idle_clock_for_as_long_as_the_idle_limit() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.tool_started("1", "bash", 5)
    assert clock.hit(24.9) is None
    hit = clock.hit(25)
    assert code(hit) is CauseCode.TOOL_TIMEOUT
    assert hit is not None
    assert "bash" in hit.cause.message


def test_a_tool_that_ended_counts_no_longer() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.tool_started("1", "bash", 5)
    clock.tool_ended("1", 12)
    assert clock.hit(21.9) is None
    assert code(clock.hit(22)) is CauseCode.WORKER_TIMEOUT


def test_an_announced_pause_is_no_silence() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.alive(5, pause=30)
    assert clock.hit(44.9) is None
    assert code(clock.hit(45)) is CauseCode.WORKER_TIMEOUT


def test_nothing_moves_the_wall_clock_limit() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.alive(99)
    assert code(clock.hit(100)) is CauseCode.WALL_LIMIT


def test_one_who_looks_when_told_to_is_never_late() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.tool_started("1", "bash", 0)
    look = clock.look_again(0)
    clock.tool_ended("1", 1)
    assert look <= 11
    clock.alive(95)
    assert clock.look_again(95) == 100
