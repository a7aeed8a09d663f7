"""The rungs between a session at work and its result."""

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.session.ladder import GRACE, CloseWays, Closing, GiveUp, Ladder, LastCall, Remind, Warn


def test_three_reminders_of_which_the_last_closes_all_other_ways_then_the_end() -> None:
    ladder = Ladder(limit=20, reminders=3)
    assert [ladder.turn_ended() for _ in range(3)] == [
        Remind(n=1, last=False),
        Remind(n=2, last=False),
        Remind(n=3, last=True),
    ]
    end = ladder.turn_ended()
    assert isinstance(end, GiveUp)
    assert end.cause.code is CauseCode.NO_RESULT


def test_a_warning_comes_once_and_only_in_long_sessions() -> None:
    long, short = Ladder(limit=10, reminders=3), Ladder(limit=5, reminders=3)
    moves = [long.answered(works=True, submits=False) for _ in range(9)]
    assert [move for move in moves if move is not None] == [Warn(used=8)]
    assert [short.answered(works=True, submits=False) for _ in range(4)] == [None] * 4


def test_at_the_limit_a_working_session_is_called_last_and_one_that_stopped_is_woken() -> None:
    assert Ladder(limit=1, reminders=3).answered(works=True, submits=False) == LastCall(wake=False)
    stopped = Ladder(limit=1, reminders=3)
    assert stopped.answered(works=False, submits=False) == CloseWays()
    assert stopped.turn_ended() == LastCall(wake=True)


def test_a_result_in_the_last_allowed_answer_is_waited_for_and_may_be_corrected() -> None:
    ladder = Ladder(limit=1, reminders=3)
    assert ladder.answered(works=True, submits=True) == CloseWays()
    assert ladder.sent_back() == LastCall(wake=False)
    for _ in range(GRACE - 1):
        assert ladder.answered(works=True, submits=True) is None
        assert ladder.sent_back() is None
    assert ladder.answered(works=True, submits=True) is None
    end = ladder.sent_back()
    assert isinstance(end, GiveUp)
    assert end.cause.code is CauseCode.STEP_LIMIT


def test_whoever_calls_other_tools_after_the_last_call_is_given_up_after_the_grace() -> None:
    ladder = Ladder(limit=1, reminders=3)
    ladder.answered(works=True, submits=False)
    moves = [ladder.answered(works=True, submits=False) for _ in range(GRACE)]
    assert moves[:-1] == [None] * (GRACE - 1)
    assert isinstance(moves[-1], GiveUp)


def test_whoever_only_talks_after_the_last_call_is_asked_again_within_the_grace() -> None:
    ladder = Ladder(limit=1, reminders=3)
    ladder.answered(works=False, submits=False)
    asked = 0
    while ladder.turn_ended() == LastCall(wake=True):
        asked += 1
        if isinstance(ladder.answered(works=False, submits=False), GiveUp):
            break
    assert asked == GRACE


def test_the_first_reason_for_closing_all_other_ways_is_that_of_the_end() -> None:
    ladder = Ladder(limit=9, reminders=3)
    budget = Closing(
        limit="requests",
        value=4,
        why="It cost 4.",
        cause=Cause(code=CauseCode.REQUEST_LIMIT, message="it cost 4"),
    )
    ladder.close(budget)
    moves = [ladder.answered(works=True, submits=False) for _ in range(GRACE)]
    assert moves[-1] == GiveUp(cause=budget.cause)


def test_a_result_that_is_sent_back_before_the_limit_costs_nothing() -> None:
    assert Ladder(limit=9, reminders=3).sent_back() is None
