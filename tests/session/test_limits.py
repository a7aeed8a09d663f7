"""The clocks that a session is held to, read at times that the test names."""

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from crew_plugin.models.causes import CauseCode
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.session.limits import Deadlines, Due, Hit, Rung, Standstill, TurnOver, WallNear

LIMITS = LimitsSpec(idle_seconds=10, tool_seconds=20, turn_seconds=60, wall_seconds=100)


def code(due: Due | None) -> CauseCode | None:
    return due.cause.code if isinstance(due, Hit) else None


def told(clock: Deadlines, now: float) -> list[Due]:
    """Everything that is due now and told once."""
    found: list[Due] = []
    while (due := clock.due(now)) is not None and not isinstance(due, Hit):
        found.append(due)
    return found


def test_silence_ends_a_session_after_its_idle_limit() -> None:
    clock = Deadlines(LIMITS, 0)
    told(clock, 9.9)
    assert clock.due(9.9) is None
    assert code(clock.due(10)) is CauseCode.WORKER_TIMEOUT


def test_silence_is_warned_of_then_nudged_then_narrowed_each_once() -> None:
    clock = Deadlines(LIMITS, 0)
    rungs = [(now, due.rung) for now in range(10) for due in told(clock, now) if isinstance(due, Standstill)]
    assert rungs == [(5, Rung.WARNED), (8, Rung.NUDGED), (9, Rung.NARROWED)]
    clock.alive(9)
    assert [due.rung for due in told(clock, 14) if isinstance(due, Standstill)] == [Rung.WARNED]


def test_a_sign_of_life_starts_the_idle_clock_again() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.alive(8)
    assert code(clock.due(17.9)) is None
    assert code(clock.due(18)) is CauseCode.WORKER_TIMEOUT


def test_a_tool_has_a_clock_of_its_own_and_stops_that_of_silence() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.tool_started("1", "bash", 5)
    rungs = {now: due for now in range(31) for due in told(clock, now)}
    assert [(now, due.rung, due.tool) for now, due in rungs.items() if isinstance(due, Standstill)] == [
        (15, Rung.WARNED, "bash"),
        (21, Rung.NUDGED, "bash"),
    ]
    assert clock.due(30.9) is None


def test_a_tool_that_does_not_let_itself_be_stopped_ends_the_session_and_is_named() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.tool_started("1", "bash", 5)
    told(clock, 30)
    hit = clock.due(31)
    assert isinstance(hit, Hit)
    assert hit.cause.code is CauseCode.TOOL_TIMEOUT
    assert "bash" in hit.cause.message


def test_a_tool_that_ended_counts_no_longer_and_says_whether_it_used_up_its_time() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.tool_started("1", "bash", 5)
    clock.tool_started("2", "grep", 5)
    assert not clock.tool_ended("2", 12)
    assert clock.tool_ended("1", 25)
    assert code(clock.due(34.9)) is None
    assert code(clock.due(35)) is CauseCode.WORKER_TIMEOUT


def test_what_waits_for_others_has_no_tool_limit() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.tool_started("1", "submit_result", 0)
    assert [type(due) for due in told(clock, 99)] == [WallNear]
    assert code(clock.due(100)) is CauseCode.WALL_LIMIT


def test_an_announced_pause_is_no_silence() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.alive(5, pause=30)
    assert code(clock.due(44.9)) is None
    assert code(clock.due(45)) is CauseCode.WORKER_TIMEOUT


def test_a_turn_is_over_after_its_limit_and_the_session_after_a_second_one() -> None:
    clock = Deadlines(LimitsSpec(turn_seconds=10, idle_seconds=90), 0)
    clock.turn_began(0)
    assert told(clock, 9.9) == []
    assert told(clock, 10) == [TurnOver(limit=10)]
    clock.turn_began(11)
    assert told(clock, 20.9) == []
    assert code(clock.due(21)) is CauseCode.TURN_LIMIT


def test_a_session_that_stands_by_has_no_turn_to_limit() -> None:
    clock = Deadlines(LimitsSpec(turn_seconds=10, idle_seconds=90), 0)
    clock.turn_began(0)
    clock.turn_ended(5)
    assert told(clock, 40) == []


def test_nothing_moves_the_wall_clock_limit_and_it_is_told_of_at_four_fifths() -> None:
    clock = Deadlines(LIMITS, 0)
    clock.alive(79)
    assert [due for due in told(clock, 80) if isinstance(due, WallNear)] == [WallNear(limit=100)]
    clock.alive(99)
    assert code(clock.due(100)) is CauseCode.WALL_LIMIT


@given(
    st.lists(
        st.tuples(st.floats(0, 15), st.sampled_from(["alive", "tool", "ended", "turn", "stood"])),
        max_size=30,
    )
)
def test_one_who_looks_when_told_to_is_never_late(happens: list[tuple[float, str]]) -> None:
    """Whatever happens between two looks, nothing becomes due before the next one."""
    clock, now = Deadlines(LIMITS, 0), 0.0
    look = clock.look_again(0)
    for pause, what in happens:
        now += pause
        while look <= now:
            told(clock, look)
            if isinstance(clock.due(look), Hit):
                return
            assert clock.look_again(look) > look
            look = clock.look_again(look)
        _do(clock, what, now)
        assert deepcopy(clock).due(max(now, look - 1e-6)) is None


def _do(clock: Deadlines, what: str, now: float) -> None:
    if what == "alive":
        clock.alive(now)
    elif what == "tool":
        clock.tool_started("1", "bash", now)
    elif what == "ended":
        clock.tool_ended("1", now)
    elif what == "turn":
        clock.turn_began(now)
    else:
        clock.turn_ended(now)
