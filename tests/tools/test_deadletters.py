"""The action `deadletters` of `team`."""

from dataclasses import replace

import anyio
import pytest

from crew_plugin.engine.ports import Outcome
from crew_plugin.errors import InvalidValue, NotAllowed, NotConfirmed, UnknownName
from crew_plugin.models.records import DeadLetterState, ParentRef
from crew_plugin.testing.fake_runner import FakeAttempt, fails, in_turn, submits
from crew_tools.team.actions import from_words
from tests.tools.scripted import Scripted, caller, run_id_in, team

pytestmark = pytest.mark.anyio


async def given_up(scripted: Scripted) -> str:
    """A run whose only task fails for something that may pass as often as it is tried by itself."""
    failed = await team(scripted, action="run", agent="explorer", goal="look")
    return run_id_in(failed.text)


@pytest.fixture(autouse=True)
def fails_twice(scripted: Scripted) -> None:
    down = fails("| the provider\nis down", retryable=True)
    scripted.runner.default = in_turn(down, down, submits("found it"), submits("found more"))


async def test_a_model_lists_them_and_has_one_tried_again(scripted: Scripted) -> None:
    run_id = await given_up(scripted)

    listed = await team(scripted, action="deadletters")
    status = await team(scripted, action="status", run_id=run_id)
    again = await team(scripted, action="deadletters", op="requeue", letter="last")

    (letter,) = listed.details["dead_letters"]
    assert (letter["run_id"], letter["task"], letter["attempts"]) == (run_id, "explorer", 2)
    assert listed.text.startswith(f"| {letter['id']}")
    assert "given up: explorer" in status.text
    assert (again.details["state"], again.details["retried"]) == ("completed", ["explorer"])
    assert "found it" in again.text
    assert (await team(scripted, action="deadletters")).details["dead_letters"] == []
    with pytest.raises(NotAllowed, match="no task waits for somebody to try it again"):
        await team(scripted, action="deadletters", op="requeue", letter=run_id)


async def test_dropping_is_confirmed_first(scripted: Scripted) -> None:
    run_id = await given_up(scripted)

    with pytest.raises(NotConfirmed, match="drop 1 dead letter"):
        await team(scripted, action="deadletters", op="drop", letter=run_id)
    dropped = await team(
        scripted, action="deadletters", op="drop", letter=run_id, confirm=True, intent="not needed"
    )

    assert [letter["state"] for letter in dropped.details["dropped"]] == ["dropped"]
    (letter,) = await scripted.crew.writer.read(lambda store: store.list_dead_letters(run_id))
    assert (letter.state, letter.closed_by, letter.note) == (
        DeadLetterState.DROPPED,
        "session:chat",
        "not needed",
    )


async def test_another_chats_are_left_alone_without_force(scripted: Scripted) -> None:
    run_id = await given_up(scripted)
    other = replace(caller(), parent=ParentRef(host="test", session="other"), session="other")

    with pytest.raises(NotAllowed, match="say force to drop its dead letters"):
        await team(scripted, other, action="deadletters", op="drop", letter=run_id, confirm=True)
    with pytest.raises(NotAllowed, match="say force to retry its tasks"):
        await team(scripted, other, action="deadletters", op="requeue", letter=run_id)


async def test_those_of_several_runs_are_tried_again_side_by_side(scripted: Scripted) -> None:
    down = fails("down", retryable=True)
    both = [anyio.Event(), anyio.Event()]

    async def meets(attempt: FakeAttempt) -> Outcome:
        both[0 if attempt.context.run.id == runs[0] else 1].set()
        for event in both:
            await event.wait()
        return await submits("together")(attempt)

    scripted.runner.default = in_turn(down, down, meets)
    runs = [await given_up(scripted), await given_up(scripted)]

    with anyio.fail_after(20):
        told = await team(scripted, action="deadletters", op="requeue", letter="all")

    assert [each["run_id"] for each in told.details["requeued"]] == runs
    assert [each["state"] for each in told.details["requeued"]] == ["completed"] * 2
    assert told.text.count("together") == 2


async def test_a_wrong_call_says_what_is_wrong(scripted: Scripted) -> None:
    with pytest.raises(InvalidValue, match='letter must be the id of a dead letter, a run, or "all"'):
        await team(scripted, action="deadletters", op="requeue")
    with pytest.raises(UnknownName, match="there is no dead letter 'dead_0'"):
        await team(scripted, action="deadletters", op="drop", letter="dead_0")
    typed = from_words(["deadletters", "requeue", "last"], {})
    assert typed == {"action": "deadletters", "op": "requeue", "letter": "last"}
