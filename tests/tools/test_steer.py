"""`crew_agent_steer`, and the actions `steer` and `resize`: who is told what, and the receipt."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.config import Settings
from crew_plugin.crew import Crew
from crew_plugin.engine.ports import Outcome
from crew_plugin.errors import NotAllowed
from crew_plugin.host import ToolContext, ToolError, ToolOutput
from crew_plugin.models.records import ParentRef
from crew_plugin.models.states import RunState
from crew_plugin.testing.fake_runner import FakeAttempt, hangs, submits
from crew_tools.crew_agent import tools
from crew_tools.team.actions import from_words
from tests.tools.scripted import Scripted, caller, scripted_crew, team

pytestmark = pytest.mark.anyio


async def listens(attempt: FakeAttempt) -> Outcome:
    """Goes on until it is told something or stopped."""
    while not attempt.steers:
        if attempt.aborted.is_set():
            return await hangs()(attempt)
        await anyio.lowlevel.checkpoint()
    return await submits("; ".join(attempt.steers))(attempt)


async def call(scripted: Scripted, context: ToolContext | None = None, **arguments: Any) -> ToolOutput:
    """One call of `crew_agent_steer`."""

    async def crew() -> Crew:
        return scripted.crew

    (spec,) = (spec for spec in tools(crew) if spec.name == "crew_agent_steer")
    given: Mapping[str, Any] = arguments
    with anyio.fail_after(30):
        return await spec.execute(given, context or caller(later=True))


async def agents(scripted: Scripted, count: int = 1, **facts: Any) -> str:
    """So many tasks in the background, all of them listening; the id of their run."""
    scripted.runner.default = listens
    tasks = [{"goal": f"part {number}"} for number in range(count)]
    begun = await team(
        scripted, caller(later=True), action="parallel", tasks=tasks, **{"async": True}, **facts
    )
    with anyio.fail_after(10):
        while len(scripted.runner.open) < min(count, facts.get("concurrency", count)):
            await anyio.lowlevel.checkpoint()
    return str(begun.details["run_id"])


async def ended(scripted: Scripted, run_id: str) -> RunState:
    with anyio.fail_after(10):
        return (await scripted.crew.supervisor.wait(run_id, None)).state


async def test_an_agent_is_told_something_by_its_id_and_the_receipt_says_so(scripted: Scripted) -> None:
    run_id = await agents(scripted)
    output = await call(scripted, agent_id=run_id, message="look at auth.py")
    assert output.text == f"{run_id}/t1: injected; it sees this at its next step"
    assert output.details["outcome"] == "injected"
    assert await ended(scripted, run_id) is RunState.COMPLETED


async def test_a_task_is_named_in_any_of_three_ways_and_an_error_names_the_choices(
    scripted: Scripted,
) -> None:
    run_id = await agents(scripted, 4)
    with pytest.raises(ToolError, match=f"has 4 tasks, name one of them: {run_id}/t1, {run_id}/t2"):
        await call(scripted, agent_id=run_id, message="x")
    with pytest.raises(ToolError, match=f"there is no agent 't9'; known: {run_id}/t1"):
        await call(scripted, agent_id="t9", message="x")
    assert (await call(scripted, agent_id="t1", message="x")).details["to"] == "t1"
    assert (await call(scripted, agent_id=f"{run_id}/t2", message="x")).details["to"] == "t2"
    assert (await call(scripted, agent_id=run_id, task="t3", message="x")).details["to"] == "t3"
    typed = from_words(["steer", run_id, "t4", "look", "here"], {})
    assert (await team(scripted, caller(later=True), **typed)).text.startswith(f"{run_id}/t4: injected")
    assert await ended(scripted, run_id) is RunState.COMPLETED
    results = await scripted.crew.writer.read(lambda store: store.list_results(run_id))
    assert results[3].summary == "look here"


async def test_two_runs_with_the_same_task_have_to_be_told_apart(scripted: Scripted) -> None:
    first = await agents(scripted)
    second = await agents(scripted)
    with pytest.raises(ToolError, match="several active runs have a task 't1', name one of them: run_"):
        await call(scripted, agent_id="t1", message="x")
    for run_id in (first, second):
        await call(scripted, agent_id=run_id, message="x")
        await ended(scripted, run_id)


async def test_an_agent_of_another_conversation_needs_force(scripted: Scripted) -> None:
    run_id = await agents(scripted)
    other = replace(caller(later=True), parent=ParentRef(host="test", session="other"), session="other")
    with pytest.raises(ToolError, match="belongs to the session chat"):
        await call(scripted, other, agent_id=run_id, message="x")
    forced = await call(scripted, other, agent_id=run_id, message="x", force=True)
    assert forced.details["outcome"] == "injected"
    await ended(scripted, run_id)


async def test_an_agent_is_stopped_and_the_others_go_on(scripted: Scripted) -> None:
    run_id = await agents(scripted, 2)
    stopped = await call(scripted, agent_id="t1", stop="agent", message="not needed")
    assert stopped.text == f"{run_id}/t1: cancelled: it was cancelled; finished results are kept"
    assert (await call(scripted, agent_id="t2", message="go on")).details["outcome"] == "injected"
    assert await ended(scripted, run_id) is RunState.FAILED


async def test_stopping_a_tree_stops_what_its_sessions_started(scripted: Scripted) -> None:
    top = await agents(scripted)
    (attempt,) = scripted.runner.open.values()
    lease, attempt_id = attempt.context.lease, attempt.context.attempt.id
    await scripted.crew.writer.run(
        lambda store: store.open_session(lease, attempt_id, host_session="temp/child", prompt=None)
    )
    child = caller(later=True, session="temp/child")
    below = await team(scripted, child, action="parallel", tasks=[{"goal": "part"}], **{"async": True})
    output = await call(scripted, agent_id=top, stop="tree", message="enough")
    assert [line.partition(":")[0] for line in output.text.splitlines()] == [top, below.details["run_id"]]
    assert await ended(scripted, str(below.details["run_id"])) is RunState.CANCELLED


async def test_a_run_is_resized_by_the_model_and_in_the_chat(scripted: Scripted) -> None:
    run_id = await agents(scripted, 3, concurrency=1)
    grown = await team(scripted, caller(later=True), action="resize", run_id=run_id, width=2)
    assert grown.text == f"run {run_id}: done; 2 sessions at once instead of 1"
    typed = await team(scripted, caller(later=True), **from_words(["resize", "3"], {}))
    assert typed.text.endswith("3 sessions at once instead of 2")
    with anyio.fail_after(10):
        while len(scripted.runner.open) < 3:
            await anyio.lowlevel.checkpoint()
    with pytest.raises(NotAllowed, match="the settings allow 1 to 8 sessions of one run"):
        await team(scripted, caller(later=True), action="resize", run_id=run_id, width=9)
    await call(scripted, agent_id=run_id, stop="tree")


async def test_a_run_that_is_over_is_not_steered_and_the_way_on_is_named(scripted: Scripted) -> None:
    run_id = await agents(scripted)
    await call(scripted, agent_id=run_id, message="x")
    await ended(scripted, run_id)
    with pytest.raises(ToolError, match=rf'crew_agent with resume="{run_id}"'):
        await call(scripted, agent_id=run_id, message="and the tests?")


async def test_a_cancelled_run_hands_back_what_was_finished(scripted: Scripted) -> None:
    async def first_submits(attempt: FakeAttempt) -> Outcome:
        if attempt.context.task.key == "t1":
            return await submits("the first part is done")(attempt)
        return await hangs()(attempt)

    scripted.runner.default = first_submits
    answers: list[ToolOutput] = []

    async def wait_for_it() -> None:
        tasks = [{"goal": "one"}, {"goal": "two"}]
        answers.append(await team(scripted, caller(), action="parallel", tasks=tasks))

    async with anyio.create_task_group() as group:
        group.start_soon(wait_for_it)
        with anyio.fail_after(10):
            while len(scripted.runner.open) != 1 or len(scripted.runner.order) != 2:
                await anyio.lowlevel.checkpoint()
            await team(scripted, caller(), action="cancel", run_id="last")
    assert "cancelled" in answers[0].text.splitlines()[0]
    assert "| the first part is done" in answers[0].text


async def test_tasks_that_share_a_resource_take_turns_and_fail_fast_stops_the_rest(root: Path) -> None:
    most: list[int] = []

    async def fails_on_two(attempt: FakeAttempt) -> Outcome:
        most.append(len(made.runner.open))
        if attempt.context.task.key == "t2":
            return await submits("no", error="the port is taken")(attempt)
        return await submits()(attempt)

    async with scripted_crew(root, Settings()) as made:
        made.runner.default = fails_on_two
        tasks = [{"goal": f"part {n}", "resources": "port:8080"} for n in range(4)]
        output = await team(made, action="parallel", tasks=tasks, on_failure="fail-fast")
    assert set(most) == {1}
    assert made.runner.order == ["t1", "t2"]
    assert output.details["state"] == "failed"
