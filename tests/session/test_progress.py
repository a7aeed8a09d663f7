"""What counts as progress of a session, and what as standing still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_plugin.host import ToolCall
from crew_plugin.session.limits import Rung
from crew_plugin.session.progress import Progress, Stuck, is_object


def progress(limit: int = 12) -> Progress:
    return Progress(limit, ignored=frozenset({"submit_result"}))


def answer(
    stands: Progress,
    name: str = "read",
    arguments: str = '{"path": "a"}',
    text: str = "same",
    *,
    ok: bool = True,
    known: bool = True,
) -> Stuck | None:
    """One answer with one call, and what came of it."""
    stands.answered((ToolCall(id="1", name=name, arguments=arguments),))
    return stands.tool_ended("1", text, ok=ok, known=known)


def test_the_same_call_with_the_same_answer_is_warned_of_told_narrowed_and_ended() -> None:
    stands = progress()
    moves = [answer(stands) for _ in range(13)]
    assert [(place, move.rung) for place, move in enumerate(moves) if move is not None] == [
        (3, Rung.WARNED),
        (6, Rung.NUDGED),
        (9, Rung.NARROWED),
        (12, None),
    ]
    assert moves[3] is not None
    assert moves[3].what == "read with the same arguments and the same answer"


def test_two_calls_in_turn_stand_still_as_well_as_one() -> None:
    stands = progress()
    moves = [answer(stands, arguments=f'{{"path": "{"ab"[place % 2]}"}}') for place in range(14)]
    assert moves[-1] is not None
    assert moves[-1].rung is None


def test_calls_that_fail_stand_still_whatever_they_ask_for() -> None:
    stands = progress()
    moves = [answer(stands, arguments=f'{{"path": "{place}"}}', ok=False) for place in range(12)]
    assert moves[-1] is not None
    assert moves[-1].rung is None
    assert moves[-1].what == "a failing call of read"


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ({"name": "raed", "ok": False, "known": False}, "is no tool of this session"),
        ({"arguments": '{"path": "a', "ok": False}, "were no JSON object"),
    ],
)
def test_calls_that_cannot_be_made_count_twice(call: dict[str, object], what: str) -> None:
    stands = progress()
    moves = [answer(stands, **call) for _ in range(6)]  # type: ignore[arg-type]
    assert moves[-1] is not None
    assert moves[-1].rung is None
    assert what in moves[-1].what


def test_a_new_answer_to_an_old_question_is_progress() -> None:
    stands = progress()
    assert [answer(stands, text=str(place)) for place in range(40)] == [None] * 40


def test_one_new_call_among_old_ones_is_progress_and_starts_the_count_again() -> None:
    stands = progress(4)
    for place in range(20):
        stands.answered(
            (
                ToolCall(id="old", name="read", arguments="{}"),
                ToolCall(id="new", name="grep", arguments=f'{{"n": {place}}}'),
            )
        )
        assert stands.tool_ended("old", "same", ok=True, known=True) is None
        assert stands.tool_ended("new", "same", ok=True, known=True) is None


def test_handing_in_is_neither_progress_nor_standing_still() -> None:
    stands = progress(4)
    answer(stands)
    assert [answer(stands, "submit_result", text="no", ok=False) for _ in range(9)] == [None] * 9
    assert answer(stands) == Stuck(
        rung=Rung.WARNED, answers=1, what="read with the same arguments and the same answer"
    )


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.sampled_from("xy")), max_size=60))
def test_nobody_is_ended_who_brought_something_new_within_the_limit(
    calls: list[tuple[str, bool, str]],
) -> None:
    stands, came, still = progress(6), dict[str, str](), 0
    for name, ok, text in calls:
        new = ok and came.get(name) != text
        came[name] = text
        still = 0 if new else still + 1
        move = answer(stands, name, "{}", text, ok=ok)
        assert (move is not None and move.rung is None) == (still >= 6)


def test_megabytes_of_arguments_are_not_parsed() -> None:
    assert is_object('{"text": "' + "x" * 5_000_000 + '"}')
    assert not is_object('{"text": "' + "x" * 5_000_000)
