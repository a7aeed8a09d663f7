"""The actions `respond` and `retry` of `team`."""

from dataclasses import replace
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.errors import CallerError, InvalidValue, NotAllowed
from crew_plugin.models.questions import NewQuestion, QuestionRecord, QuestionState
from crew_plugin.models.records import NewResult, ParentRef
from crew_plugin.models.states import AttemptState
from crew_plugin.store.port import RunStore
from crew_plugin.testing.fake_runner import FakeAttempt, fails, in_turn, submits
from crew_tools.team.actions import from_words
from tests.tools.scripted import Scripted, caller, run_id_in, team

pytestmark = pytest.mark.anyio


def _question(store: RunStore, *, ident: str) -> QuestionRecord:
    return store.load_question(ident)


async def asks(attempt: FakeAttempt) -> Outcome:
    """A pretended session that waits for the answer to a question, and hands it in."""
    context: AttemptContext = attempt.context
    key, lease = context.task.key, context.lease
    question = NewQuestion(text=f"{key}: which port?", choices=("8080", "9090"), expires_at=9e9)
    asked = await attempt.writer.run(
        lambda store: store.ask_question(lease, context.attempt.id, question, actor=key)
    )
    while asked.state is QuestionState.OPEN and not attempt.aborted.is_set():
        await anyio.lowlevel.checkpoint()
        asked = await attempt.writer.read(partial(_question, ident=asked.id))
    asked = await attempt.writer.run(
        lambda store: store.close_question(lease, asked.id, QuestionState.WITHDRAWN, actor=key)
    )
    result = NewResult(summary=asked.answer or "nothing")
    await attempt.writer.run(lambda store: store.accept_result(lease, context.attempt.id, result, actor=key))
    return Outcome(state=AttemptState.COMPLETED)


async def waiting(scripted: Scripted, count: int = 1) -> str:
    """A background run of so many tasks, all of which wait for an answer."""
    scripted.runner.default = asks
    tasks = [{"goal": f"part {number}"} for number in range(count)]
    begun = await team(scripted, caller(later=True), action="parallel", tasks=tasks, **{"async": True})
    run_id = str(begun.details["run_id"])
    with anyio.fail_after(10):
        while len(await questions(scripted, run_id)) < count:
            await anyio.lowlevel.checkpoint()
    return run_id


async def questions(scripted: Scripted, run_id: str) -> list[QuestionRecord]:
    return await scripted.crew.writer.read(lambda store: store.list_questions(run_id))


async def test_the_parent_sees_a_question_with_the_call_that_answers_it_and_answers(
    scripted: Scripted,
) -> None:
    run_id = await waiting(scripted)
    status = await team(scripted, action="status", run_id=run_id)
    assert "t1: which port?" in status.text
    assert "choices: 8080, 9090" in status.text
    assert f'action="respond", run_id="{run_id}", task_id="t1", answer="..."' in status.text
    assert (await team(scripted, action="respond")).details["questions"][0]["run_id"] == run_id
    with pytest.raises(InvalidValue, match="one of: 8080, 9090; got '1'"):
        await team(scripted, caller(later=True), action="respond", run_id=run_id, answer="1")
    output = await team(scripted, caller(later=True), action="respond", answer="9090")
    assert output.details["question"]["answer"] == "9090"
    with anyio.fail_after(10):
        await scripted.crew.supervisor.wait(run_id, None)
    (result,) = await scripted.crew.writer.read(lambda store: store.list_results(run_id))
    assert result.summary == "9090"


async def test_of_several_questions_one_is_named_and_a_chat_line_names_it_in_words(
    scripted: Scripted,
) -> None:
    run_id = await waiting(scripted, 2)
    with pytest.raises(CallerError, match=rf"several questions are open.*{run_id} t1, {run_id} t2"):
        await team(scripted, caller(later=True), action="respond", run_id=run_id, answer="9090")
    by_hand = replace(caller(later=True), by_hand=True)
    typed = from_words(["respond", run_id, "t2", "8080"], {})
    assert (await team(scripted, by_hand, **typed)).details["question"]["task"] == "t2"
    typed = from_words(["respond", run_id, "9090"], {})
    assert (await team(scripted, by_hand, **typed)).details["question"]["task"] == "t1"
    with anyio.fail_after(10):
        await scripted.crew.supervisor.wait(run_id, None)


async def test_an_answer_to_the_wrong_run_is_told_where_a_question_is_open(scripted: Scripted) -> None:
    run_id = await waiting(scripted)
    scripted.runner.default = submits("seen")
    other = await team(scripted, action="run", agent="explorer", goal="look")
    with pytest.raises(NotAllowed, match=rf"no question is open in run run_\w+; open: {run_id} t1"):
        await team(scripted, action="respond", run_id=other.details["run_id"], answer="8080")
    await team(scripted, caller(later=True), action="respond", run_id=run_id, answer="8080")
    with anyio.fail_after(10):
        await scripted.crew.supervisor.wait(run_id, None)


async def test_only_whoever_asked_for_the_run_answers_without_force(scripted: Scripted) -> None:
    run_id = await waiting(scripted)
    other = replace(caller(later=True), parent=ParentRef(host="test", session="other"), session="other")
    with pytest.raises(NotAllowed, match=r"belongs to chat.*say force"):
        await team(scripted, other, action="respond", run_id=run_id, answer="8080")
    assert (await questions(scripted, run_id))[0].state is QuestionState.OPEN
    forced = await team(scripted, other, action="respond", run_id=run_id, answer="8080", force=True)
    assert forced.details["question"]["by"] == "session:other"
    with anyio.fail_after(10):
        await scripted.crew.supervisor.wait(run_id, None)


async def test_a_retry_runs_the_failed_task_again_and_answers_with_its_result(scripted: Scripted) -> None:
    scripted.runner.default = in_turn(fails(), submits("found it"))
    failed = await team(scripted, action="run", agent="explorer", goal="look")
    run_id = run_id_in(failed.text)
    again = await team(scripted, action="retry", run_id=run_id, text="The file is auth.py.")
    assert "tried again: explorer" in again.text
    assert "found it" in again.text
    assert (again.details["state"], again.details["retried"]) == ("completed", ["explorer"])
    with pytest.raises(CallerError, match="nothing to retry"):
        await team(scripted, action="retry", run_id=run_id)
