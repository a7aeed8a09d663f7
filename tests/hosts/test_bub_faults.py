"""Models that misbehave, in a real Bub: each session ends in time, and its outcome is honest."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ToolCallState
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.models.states import AttemptState, RunState
from crew_plugin.session.runner import SessionRunner
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from tests.hosts.bub_engine import Host
from tests.hosts.bub_played import played
from tests.session.conftest import limits, make_stage

__all__ = ["limits", "make_stage"]

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
MANY = LimitsSpec(steps=60, model_retries=1)
"""So many steps that another limit must come first."""
PROSE = "Here is what I found: all is well."
WANTS_NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def submits(*arguments: object, fault: Fault | None = None, text: str = "") -> Reply:
    """An answer with these submits; arguments that are no object stand for a model's own mistakes."""
    calls = tuple(ToolUse(name="submit_result", arguments=cast("dict[str, Any]", each)) for each in arguments)
    return Reply(text=text, calls=calls, fault=fault)


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (submits(PROSE), PROSE),
        (submits([PROSE]), PROSE),
        (submits({"summary": PROSE * 3}, fault=Fault.HALF_TOOL_CALL), PROSE),
    ],
    ids=["prose", "a list", "half a call"],
)
async def test_submits_that_are_no_json_object_end_the_session_after_six_and_are_kept(
    make_stage: Any, hosted: Hosted, reply: Reply, kept: str
) -> None:
    stage = await make_stage(step={"limits": MANY})
    async with hosted(lambda _: reply) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(lambda _: reply, engine=host.engine)
        assert len(host.model.requests) == 6
        told = host.model.requests[1].conversation.messages[-1]["content"]
        assert "not a JSON object" in told
        assert "complete JSON object" in told
    assert (outcome.state, outcome.cause.code) == (
        AttemptState.NEEDS_ATTENTION,
        CauseCode.SUBMIT_FAILURES,
    )
    assert kept in await stage.text_of(outcome)
    assert len(await stage.events("result.rejected")) == 5


@pytest.mark.both_engines
async def test_prose_where_data_is_wanted_is_sent_back_and_a_strict_schema_ends_it_with_the_prose_kept(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(step={"limits": MANY, "result_schema": WANTS_NUMBER, "schema_mode": "strict"})
    reply = submits({"summary": "done", "data": PROSE})
    async with hosted(lambda _: reply) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(lambda _: reply, engine=host.engine)
        assert len(host.model.requests) == 4
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, CauseCode.RESULT_REJECTED)
    assert PROSE in await stage.text_of(outcome)


@pytest.mark.both_engines
async def test_the_first_of_two_submits_counts_and_no_model_call_follows(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage()
    reply = submits({"summary": "first"}, {"summary": "second"})
    async with hosted(lambda _: reply) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(lambda _: reply, engine=host.engine)
        assert len(host.model.requests) == 1
    assert outcome.state is AttemptState.COMPLETED
    results = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    assert [result.summary for result in results] == ["first"]


@pytest.mark.both_engines
async def test_a_submit_that_comes_after_the_stop_is_no_result(make_stage: Any, hosted: Hosted) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    cause = Cause(code=CauseCode.CALLER_CANCELLED, message="the caller cancelled it")

    def script(conversation: Conversation) -> Reply:
        if not conversation.tool_results:
            return Reply(text="so far", calls=(ToolUse(name="bash", arguments={"command": "true"}),))
        return Reply(calls=submits({"summary": "late"}).calls, held=True)

    context = await stage.attempt()
    outcomes = []
    async with hosted(script) as host:
        runner = SessionRunner(engine=host.engine, writer=stage.writer, toolbox=stage.toolbox)

        async def run() -> None:
            outcomes.append(await runner.run(context))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await host.model.arrived(2)
                await runner.abort(context.attempt.id, cause)
                host.model.release()
    assert (outcomes[0].state, outcomes[0].cause) == (AttemptState.CANCELLED, cause)
    assert await stage.text_of(outcomes[0]) == "so far"
    assert await stage.writer.read(lambda store: store.list_results(stage.run.id)) == []


async def test_who_is_made_to_hand_in_and_goes_on_working_is_refused_and_can_still_submit(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(
        step={"limits": LimitsSpec(steps=40, requests=4, model_retries=1)}, agent={"tools": ("bash",)}
    )
    refused: list[str] = []

    def script(conversation: Conversation) -> Reply:
        if conversation.offered("bash") or len(refused) < 2:
            if not conversation.offered("bash"):
                refused.append("bash")
            command = f"echo {conversation.number}"
            return Reply(text="on", calls=(ToolUse(name="bash", arguments={"command": command}),))
        return submits({"summary": "after all"})

    async with hosted(script) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(script, engine=host.engine)
    assert outcome.state is AttemptState.COMPLETED
    task = await stage.writer.read(lambda store: store.load_task(stage.run.id, "work"))
    calls = await stage.writer.read(lambda store: store.list_tool_calls(task.attempt_id))
    made = [call.tool for call in calls if call.state is ToolCallState.DONE]
    assert made.count("bash") <= 6
    assert made[-1] == "submit_result"


async def test_a_tool_that_is_not_there_is_answered_with_those_that_are(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage()
    script: Script = lambda said: (  # noqa: E731 - one line
        submits({"summary": "found another way"})
        if said.tool_results
        else Reply(calls=(ToolUse(name="web_search", arguments={"q": "x"}),))
    )
    async with hosted(script) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(script, engine=host.engine)
        assert "web_search" in host.model.requests[1].conversation.tool_results[0].text
    assert outcome.state is AttemptState.COMPLETED
    entries = await stage.transcript()
    answered = [entry.seq for entry in entries if entry.role == "assistant"]
    assert len(answered) == 2


HOOKS = """
import asyncio
from crew_plugin.hookspecs import Verdict, hookimpl


@hookimpl
async def {sleeps}(event):
    await asyncio.Event().wait()


@hookimpl
def {raises}(event):
    raise ValueError("cannot tell")
"""


async def test_hooks_of_the_crew_that_only_watch_and_sleep_or_raise_change_no_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = HOOKS.format(sleeps="after_task_end", raises="after_run_end")
    reply = submits({"summary": "done"})
    async with played(tmp_path, monkeypatch, lambda _: reply, hooks=hooks, hook_seconds=0.3) as told:
        assert told.run.state is RunState.COMPLETED
        assert [result.summary for result in await told.results()] == ["done"]
        executed = {event.data["hook"]: event.data for event in await told.events("hook.executed")}
        assert executed["after_task_end"]["outcome"] == "timed_out"
        assert executed["after_run_end"]["outcome"] == "raised"


@pytest.mark.parametrize(
    ("sleeps", "raises", "said"),
    [
        ("before_run_start", "after_run_end", "0.3 s"),
        ("before_task_start", "after_run_end", "0.3 s"),
        ("after_run_end", "before_task_start", "cannot tell"),
    ],
)
async def test_hooks_of_the_crew_that_decide_and_sleep_or_raise_refuse_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeps: str, raises: str, said: str
) -> None:
    hooks = HOOKS.format(sleeps=sleeps, raises=raises)
    reply = submits({"summary": "done"})
    async with played(tmp_path, monkeypatch, lambda _: reply, hooks=hooks, hook_seconds=0.3) as told:
        assert told.run.state is RunState.FAILED
        task = await told.crew.writer.read(lambda store: store.load_task(told.run.id, "t1"))
        cause = task.cause if "task" in f"{sleeps} {raises}" else told.run.cause
        assert cause is not None
        assert cause.code is CauseCode.HOOK_BLOCKED
        assert said in str(cause)
        assert told.model.requests == []
