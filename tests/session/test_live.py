"""A live session: how it works, and each way in which it can end."""

import sqlite3
from contextlib import closing
from typing import Any

import anyio
import pytest

from crew_plugin.engine.ports import Outcome
from crew_plugin.errors import EngineError, Fenced, UnknownName
from crew_plugin.host import EngineCapability, ToolContext, ToolOutput, ToolSpec
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind, MessageRecord, ReceiptOutcome
from crew_plugin.models.records import Effect, NewRun, ToolCallState
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.models.states import AttemptState
from crew_plugin.session.ladder import GRACE
from crew_plugin.store.liveness import current_owner
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

CANCEL = Cause(code=CauseCode.CALLER_CANCELLED, message="the caller cancelled it")
SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


def submit(**arguments: Any) -> Reply:
    return Reply(calls=(ToolUse(name="submit_result", arguments=arguments),))


def call(name: str, **arguments: Any) -> Reply:
    return Reply(text=f"I call {name}.", calls=(ToolUse(name=name, arguments=arguments),))


def replies(*given: Reply) -> Script:
    """These, in order; the last one again and again."""
    rest = list(given)
    return lambda _: rest.pop(0) if len(rest) > 1 else rest[0]


async def answer_42(arguments: Any) -> str:
    return "42"


def tool(name: str, execute: Any, effect: Effect = Effect.PURE) -> ToolSpec:
    return ToolSpec(
        name=name, description="a tool", parameters={"type": "object"}, execute=execute, effect=effect
    )


# --- the good end ---


async def test_an_accepted_result_completes_the_attempt_and_ends_the_session(stage: Any) -> None:
    engine = FakeEngine(script=replies(submit(summary="found it", data={"n": 1})))
    outcome = await stage.execute(engine.script, engine=engine)
    assert outcome == Outcome(state=AttemptState.COMPLETED)
    results = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    assert [(result.summary, result.data, result.flags) for result in results] == [
        ("found it", {"n": 1}, ("unchecked",))
    ]
    assert engine.sessions[0].left


async def test_the_session_is_on_record_from_its_prompt_to_its_end(make_stage: Any) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    engine = FakeEngine(
        script=replies(call("bash", command="ls"), submit(summary="ok")), host_tools={"bash": answer_42}
    )
    await stage.execute(engine.script, engine=engine)
    assert [event.type for event in await stage.events() if event.type.startswith(("session", "result"))] == [
        "session.opened",
        "session.model_answered",
        "session.tool_started",
        "session.tool_ended",
        "session.model_answered",
        "session.tool_started",
        "result.accepted",
        "session.tool_ended",
        "session.closed",
    ]
    entries = await stage.transcript()
    assert [entry.role for entry in entries] == ["user", "assistant", "tool", "assistant", "tool"]
    assert entries[2].content == "42"
    assert entries[1].data["tool_calls"][0]["name"] == "bash"
    task = await stage.writer.read(lambda store: store.load_task(stage.run.id, "work"))
    attempt = await stage.writer.read(lambda store: store.load_attempt(task.attempt_id))
    assert (attempt.steps, attempt.usage.calls, attempt.model_used) == (2, 2, "fake")
    session = await stage.writer.read(lambda store: store.load_session(attempt.session_id))
    prompt = await stage.writer.read(lambda store: store.read_artifact(session.prompt.sha256))
    assert engine.sessions[0].messages[0]["content"] in prompt.decode()
    assert engine.sessions[0].messages[1]["content"] in prompt.decode()


async def test_every_call_is_journalled_and_the_answer_that_asked_for_it_before(make_stage: Any) -> None:
    stage = await make_stage(agent={"tools": ("bash", "look")})
    seen: list[list[str]] = []

    async def look(arguments: Any, context: ToolContext) -> ToolOutput:
        entries = await stage.transcript()
        seen.append([entry.content for entry in entries if entry.role == "assistant"])
        return ToolOutput(text="looked")

    stage.extra_tools = (tool("look", look),)
    engine = FakeEngine(
        script=replies(call("look"), call("bash", command="ls"), submit(summary="ok")),
        host_tools={"bash": answer_42},
    )
    await stage.execute(engine.script, engine=engine)
    assert seen == [["I call look."]]
    task = await stage.writer.read(lambda store: store.load_task(stage.run.id, "work"))
    calls = await stage.writer.read(lambda store: store.list_tool_calls(task.attempt_id))
    assert [(each.tool, each.state) for each in calls] == [
        ("look", ToolCallState.DONE),
        ("bash", ToolCallState.DONE),
        ("submit_result", ToolCallState.DONE),
    ]


async def test_a_result_of_5_mb_is_kept_whole(stage: Any) -> None:
    text = "x" * 5_000_000 + "🦊"
    outcome = await stage.execute(replies(submit(summary="big", artifacts={"log.txt": text})))
    assert outcome.state is AttemptState.COMPLETED
    [result] = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    sha256 = result.artifacts["log.txt"].sha256
    assert (await stage.writer.read(lambda store: store.read_artifact(sha256))).decode() == text


async def test_an_agent_that_reports_an_error_fails_with_its_own_words(stage: Any) -> None:
    outcome = await stage.execute(replies(submit(error="the database is gone")))
    assert outcome.state is AttemptState.FAILED
    assert outcome.cause.code is CauseCode.AGENT_ERROR
    assert "the database is gone" in outcome.cause.message
    [result] = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    assert result.error == "the database is gone"


# --- the ladder of reminders ---


async def test_three_reminders_then_the_last_text_is_kept_and_needs_attention(stage: Any) -> None:
    engine = FakeEngine(script=replies(Reply(text="I think the bug is in auth.py")))
    outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.NEEDS_ATTENTION
    assert outcome.cause.code is CauseCode.NO_RESULT
    assert await stage.text_of(outcome) == "I think the bug is in auth.py"
    [session] = engine.sessions
    reminders = [message["content"] for message in session.messages if message["role"] == "user"][1:]
    assert [f"{n} of 3" in text for n, text in enumerate(reminders, 1)] == [True, True, True]
    assert (session.offered, session.forced) == (frozenset({"submit_result"}), "submit_result")
    assert [event.data for event in await stage.events("session.reminded")] == [
        {"n": n, "of": 3} for n in (1, 2, 3)
    ]


async def test_only_the_last_reminder_takes_the_other_tools_away(stage: Any) -> None:
    offered: list[int] = []

    def script(conversation: Conversation) -> Reply:
        offered.append(len(conversation.tools))
        return Reply(text="hm")

    await stage.execute(script)
    assert offered == [3, 3, 3, 1]


async def test_a_result_after_a_reminder_is_as_good_as_any(stage: Any) -> None:
    outcome = await stage.execute(replies(Reply(text="done!"), submit(summary="done")))
    assert outcome.state is AttemptState.COMPLETED


async def test_a_session_that_never_says_anything_failed(stage: Any) -> None:
    outcome = await stage.execute(replies(Reply()))
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, CauseCode.NO_RESULT)
    assert outcome.last_text is None


async def test_an_engine_that_cannot_narrow_the_tools_is_only_reminded(stage: Any) -> None:
    engine = FakeEngine(script=replies(Reply(text="hm")), capabilities=frozenset({EngineCapability.STEER}))
    outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.cause.code is CauseCode.NO_RESULT
    assert engine.sessions[0].forced is None
    assert len(engine.sessions[0].offered) == 3


async def test_after_the_last_reminder_other_tools_are_refused_even_where_they_are_still_offered(
    make_stage: Any,
) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    called: list[Any] = []

    async def bash(arguments: Any) -> str:
        called.append(arguments)
        return "done"

    script = replies(
        Reply(text="hm"),
        Reply(text="hm"),
        Reply(text="hm"),
        call("bash", command="ls"),
        submit(summary="well"),
    )
    engine = FakeEngine(
        script=script, host_tools={"bash": bash}, capabilities=frozenset({EngineCapability.STEER})
    )
    outcome = await stage.execute(script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert called == []
    assert "only submit_result is left" in engine.sessions[0].messages[-3]["content"]


async def test_when_only_the_result_is_left_a_part_of_it_is_its_end(stage: Any) -> None:
    part = {"type": ["found"], "data": ["a leak"]}
    outcome = await stage.execute(replies(*[Reply(text="hm")] * 3, submit(**part)))
    assert outcome.state is AttemptState.COMPLETED
    [result] = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    assert result.data == {"found": ["a leak"]}


async def test_a_submit_after_the_contract_has_ended_is_no_result(stage: Any) -> None:
    empty = ToolUse(name="submit_result", arguments={})
    late = ToolUse(name="submit_result", arguments={"summary": "late"})
    outcome = await stage.execute(replies(Reply(calls=(empty, empty, empty, empty, late))))
    assert outcome.cause.code is CauseCode.EMPTY_SUBMITS
    assert await stage.writer.read(lambda store: store.list_results(stage.run.id)) == []


# --- the result contract ---


async def test_a_misfit_is_sent_back_and_the_corrected_one_accepted(make_stage: Any) -> None:
    stage = await make_stage(step={"result_schema": SCHEMA})
    outcome = await stage.execute(
        replies(submit(summary="x", data={"n": "one"}), submit(summary="x", data={"n": 1}))
    )
    assert outcome.state is AttemptState.COMPLETED
    [rejected] = await stage.events("result.rejected")
    assert (rejected.data["path"], rejected.data["n"]) == ("data.n", 1)
    [entry] = [entry for entry in await stage.transcript() if not entry.data.get("ok", True)]
    assert "'one' is not of type 'integer'" in entry.content


async def test_the_step_s_schema_comes_before_the_agent_s(make_stage: Any) -> None:
    stage = await make_stage(
        step={"result_schema": SCHEMA}, agent={"result_schema": {"type": "string"}, "schema_mode": "strict"}
    )
    outcome = await stage.execute(replies(submit(summary="x", data={"n": 1})))
    assert outcome.state is AttemptState.COMPLETED


async def test_strict_fails_the_attempt_and_keeps_the_data(make_stage: Any) -> None:
    stage = await make_stage(agent={"result_schema": SCHEMA, "schema_mode": "strict"})
    outcome = await stage.execute(replies(submit(summary="x", data={"n": "kept 🦊"})))
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, CauseCode.RESULT_REJECTED)
    assert "kept 🦊" in await stage.text_of(outcome)


async def test_permissive_accepts_the_fourth_misfit_with_a_flag(make_stage: Any) -> None:
    stage = await make_stage(step={"result_schema": SCHEMA})
    outcome = await stage.execute(replies(submit(summary="x", data={"n": "one"})))
    assert outcome.state is AttemptState.COMPLETED
    [result] = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    assert result.flags == ("overridden",)


async def test_empty_submits_end_the_attempt(stage: Any) -> None:
    outcome = await stage.execute(replies(submit(summary="", data={}, error=None)))
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, CauseCode.EMPTY_SUBMITS)


async def test_six_unreadable_submits_end_the_attempt_and_the_text_is_kept(stage: Any) -> None:
    bad = ToolUse(name="submit_result", arguments={"summary": ["no", "text"]})
    outcome = await stage.execute(replies(Reply(text="handing in", calls=(bad,))))
    assert (outcome.state, outcome.cause.code) == (AttemptState.NEEDS_ATTENTION, CauseCode.SUBMIT_FAILURES)
    assert await stage.text_of(outcome) == "handing in"


async def test_the_second_of_two_submits_in_one_answer_changes_nothing(stage: Any) -> None:
    both = Reply(
        calls=(
            ToolUse(name="submit_result", arguments={"summary": "first"}),
            ToolUse(name="submit_result", arguments={"summary": "second"}),
        )
    )
    assert (await stage.execute(replies(both))).state is AttemptState.COMPLETED
    [result] = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    assert result.summary == "first"


async def test_a_schema_that_cannot_be_used_fails_the_attempt_before_a_model_is_asked(
    make_stage: Any,
) -> None:
    stage = await make_stage(step={"result_schema": {"type": "nonsense"}})
    engine = FakeEngine(script=replies(submit(summary="x")))
    outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.FAILED
    assert "nonsense" in outcome.cause.message
    assert engine.sessions == []


# --- limits ---


async def test_at_the_step_limit_only_the_result_is_left(make_stage: Any) -> None:
    limits = LimitsSpec(steps=3, idle_seconds=20, wall_seconds=40)
    stage = await make_stage(step={"limits": limits}, agent={"tools": ("bash",)})

    def script(conversation: Conversation) -> Reply:
        return submit(summary="what I have") if conversation.forced else call("bash", command="ls")

    engine = FakeEngine(script=script, host_tools={"bash": answer_42})
    outcome = await stage.execute(script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert "all 3 model calls" in str(engine.sessions[0].messages)
    [hit] = await stage.events("session.limit_reached")
    assert hit.data == {"limit": "steps", "value": 3}


async def test_a_session_that_never_stops_calling_tools_is_ended_with_a_partial_result(
    make_stage: Any,
) -> None:
    limits = LimitsSpec(steps=3, idle_seconds=20, wall_seconds=40)
    stage = await make_stage(step={"limits": limits}, agent={"tools": ("bash",)})
    engine = FakeEngine(script=replies(call("bash", command="ls")), host_tools={"bash": answer_42})
    outcome = await stage.execute(engine.script, engine=engine)
    assert (outcome.state, outcome.cause.code) == (AttemptState.NEEDS_ATTENTION, CauseCode.STEP_LIMIT)
    assert await stage.text_of(outcome) == "I call bash."
    assert len(await stage.events("session.model_answered")) == 3 + GRACE


async def test_a_step_limit_reached_without_a_tool_call_asks_once_more(make_stage: Any) -> None:
    limits = LimitsSpec(steps=1, idle_seconds=20, wall_seconds=40)
    stage = await make_stage(step={"limits": limits})
    outcome = await stage.execute(replies(Reply(text="done"), submit(summary="done")))
    assert outcome.state is AttemptState.COMPLETED


async def test_a_rejected_result_after_the_step_limit_may_be_corrected_but_not_for_ever(
    make_stage: Any,
) -> None:
    limits = LimitsSpec(steps=1, idle_seconds=20, wall_seconds=40)
    stage = await make_stage(step={"limits": limits, "result_schema": SCHEMA, "schema_mode": "strict"})
    outcome = await stage.execute(replies(Reply(text="done"), submit(summary="x", data={"n": "one"})))
    assert outcome.cause.code is CauseCode.RESULT_REJECTED
    assert len(await stage.events("result.rejected")) == 3


async def test_a_session_is_warned_before_its_step_limit(make_stage: Any) -> None:
    limits = LimitsSpec(steps=10, idle_seconds=20, wall_seconds=40)
    stage = await make_stage(step={"limits": limits}, agent={"tools": ("bash",)})

    def script(conversation: Conversation) -> Reply:
        warned = any("8 of 10 model calls" in text for text in conversation.user_texts)
        return submit(summary="in time") if warned else call("bash", command="ls")

    outcome = await stage.execute(script, engine=FakeEngine(script=script, host_tools={"bash": answer_42}))
    assert outcome.state is AttemptState.COMPLETED
    assert [event.data["text"] for event in await stage.events("session.note")] == [
        "warned: it has used 8 of 10 model calls"
    ]


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (LimitsSpec(steps=9, idle_seconds=0.5, wall_seconds=30), CauseCode.WORKER_TIMEOUT),
        (LimitsSpec(steps=9, idle_seconds=30, wall_seconds=0.5), CauseCode.WALL_LIMIT),
    ],
)
async def test_a_session_that_never_answers_is_ended_by_its_limit(
    make_stage: Any, limits: LimitsSpec, code: CauseCode
) -> None:
    stage = await make_stage(step={"limits": limits})
    engine = FakeEngine(script=replies(Reply(fault=Fault.STALL)))
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, code)
    assert engine.sessions[-1].aborted == outcome.cause
    assert all(session.left for session in engine.sessions)


async def test_a_tool_that_never_ends_is_stopped_by_its_limit_and_the_session_goes_on(
    make_stage: Any,
) -> None:
    limits = LimitsSpec(steps=9, tool_seconds=0.2, wall_seconds=30)
    stage = await make_stage(step={"limits": limits}, agent={"tools": ("bash",)})

    async def hang(arguments: Any) -> str:
        await anyio.sleep_forever()
        return ""

    engine = FakeEngine(
        script=replies(call("bash", command="sleep"), submit(summary="without it")),
        host_tools={"bash": hang},
    )
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert "bash was stopped after 0.2 s" in str(engine.sessions[0].messages)
    task = await stage.writer.read(lambda store: store.load_task(stage.run.id, "work"))
    bash, _ = await stage.writer.read(lambda store: store.list_tool_calls(task.attempt_id))
    assert bash.state is ToolCallState.CANCELLED


async def test_an_engine_that_does_not_obey_is_left(make_stage: Any) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(steps=9, idle_seconds=0.5, wall_seconds=30)})
    engine = FakeEngine(script=replies(Reply(fault=Fault.STALL)), ignores_abort=True)
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.cause.code is CauseCode.WORKER_TIMEOUT
    assert engine.sessions[0].left


# --- errors of the model, the engine and the store ---


async def test_a_wrong_key_fails_with_what_the_engine_says_and_is_not_tried_again(stage: Any) -> None:
    outcome = await stage.execute(replies(Reply(fault=Fault.UNAUTHORIZED)))
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, CauseCode.MODEL_ERROR)
    assert "unauthorized" in outcome.cause.message
    assert not outcome.retryable


async def test_an_overloaded_provider_is_retried_and_then_the_attempt_may_be(stage: Any) -> None:
    outcome = await stage.execute(replies(Reply(fault=Fault.SERVER_ERROR)))
    assert (outcome.state, outcome.retryable) == (AttemptState.FAILED, True)
    assert [event.data["try"] for event in await stage.events("session.retrying")] == [1]
    counts = (await stage.latest()).counts
    assert (counts.retries, counts.model_errors) == (1, 2)


async def test_an_attempt_that_touched_the_world_is_not_tried_again_by_itself(make_stage: Any) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    engine = FakeEngine(
        script=replies(call("bash", command="make deploy"), Reply(fault=Fault.SERVER_ERROR)),
        host_tools={"bash": answer_42},
    )
    outcome = await stage.execute(engine.script, engine=engine)
    assert not outcome.retryable
    assert await stage.text_of(outcome) == "I call bash."


async def test_an_engine_that_cannot_open_a_session_fails_the_attempt(stage: Any) -> None:
    error = EngineError("timeout", "no answer from the provider", retryable=True)
    outcome = await stage.execute(
        replies(Reply()), engine=FakeEngine(script=replies(Reply()), open_error=error)
    )
    assert (outcome.cause.code, outcome.retryable) == (CauseCode.PROVIDER_TIMEOUT, True)


async def test_a_defect_fails_the_attempt_with_its_traceback(stage: Any) -> None:
    def broken(conversation: Conversation) -> Reply:
        raise LookupError("no such thing")

    outcome = await stage.execute(broken)
    assert outcome.cause.code is CauseCode.INTERNAL_ERROR
    assert "LookupError: no such thing" in outcome.cause.message
    assert "Traceback" in outcome.cause.detail


async def test_a_folder_that_does_not_exist_fails_the_attempt(make_stage: Any) -> None:
    stage = await make_stage(step={"cwd": "not/there"})
    outcome = await stage.execute(replies(submit(summary="x")))
    assert outcome.state is AttemptState.FAILED
    assert "not/there" in outcome.cause.message


async def test_a_supervisor_that_lost_the_run_writes_nothing_more(make_stage: Any) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    made: list[str] = []

    async def bash(arguments: Any) -> str:
        made.append("call")
        await stage.writer.run(lambda store: store.claim(stage.run.id, current_owner(), force=True))
        return "ok"

    engine = FakeEngine(script=replies(call("bash", command="ls")), host_tools={"bash": bash})
    context = await stage.attempt()
    with anyio.fail_after(10), pytest.raises(Fenced):
        await stage.runner(engine).run(context)
    assert made == ["call"]
    assert engine.sessions[0].left


async def test_a_journal_that_cannot_be_written_stops_the_call(make_stage: Any) -> None:
    stage = await make_stage(agent={"tools": ("bash", "touch")})
    made: list[str] = []

    async def touch(arguments: Any, context: ToolContext) -> ToolOutput:
        made.append("touch")
        return ToolOutput(text="ok")

    stage.extra_tools = (tool("touch", touch, Effect.EXTERNAL),)
    context = await stage.attempt()

    def script(conversation: Conversation) -> Reply:
        return call("touch")

    async def take_over() -> None:
        await stage.writer.run(lambda store: store.claim(stage.run.id, current_owner(), force=True))

    class Late(FakeEngine):
        """Loses the run between opening the session and its first tool call."""

        async def available_tools(self, names: tuple[str, ...], cwd: str, **_: object) -> tuple[str, ...]:
            await take_over()
            return ()

    with anyio.fail_after(10), pytest.raises(Fenced):
        await stage.runner(Late(script=script)).run(context)
    assert made == []


async def test_no_call_is_made_when_only_the_journal_is_broken(make_stage: Any) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    made: list[str] = []

    async def bash(arguments: Any) -> str:
        made.append("call")
        return "ok"

    with closing(sqlite3.connect(stage.writer.project.database)) as damage:
        damage.execute("DROP TABLE tool_call")
    engine = FakeEngine(script=replies(call("bash", command="ls")), host_tools={"bash": bash})
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert made == []
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, CauseCode.INTERNAL_ERROR)
    assert "tool_call" in outcome.cause.message


# --- abort, steer, cancel ---


async def test_an_aborted_session_is_cancelled_with_its_cause_and_its_text_kept(stage: Any) -> None:
    started = anyio.Event()

    def script(conversation: Conversation) -> Reply:
        if conversation.tool_results:
            started.set()
            return Reply(fault=Fault.STALL)
        return Reply(text="so far: nothing bad", calls=(ToolUse(name="irc", arguments={"op": "list"}),))

    engine = FakeEngine(script=script)
    runner = stage.runner(engine)
    context = await stage.attempt()
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await started.wait()
            await runner.abort(context.attempt.id, CANCEL)
    [outcome] = outcomes
    assert (outcome.state, outcome.cause) == (AttemptState.CANCELLED, CANCEL)
    assert await stage.text_of(outcome) == "so far: nothing bad"
    assert [entry.role for entry in await stage.transcript()] == ["user", "assistant", "tool", "note"]
    assert (await stage.events("session.closed"))[0].data["steps"] == 1
    assert engine.sessions[0].aborted == CANCEL


async def test_a_result_accepted_before_the_abort_wins(stage: Any) -> None:
    context = await stage.attempt()
    engine = FakeEngine(script=replies(submit(summary="just in time")))
    runner = stage.runner(engine)

    accepted = anyio.Event()
    unsubscribe = stage.writer.subscribe(
        lambda event: accepted.set() if event.type == "result.accepted" else None
    )
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await accepted.wait()
            await runner.abort(context.attempt.id, CANCEL)
    unsubscribe()
    assert outcomes[0].state is AttemptState.COMPLETED


async def test_an_abort_before_the_session_is_open_ends_it_too(stage: Any) -> None:
    context = await stage.attempt()
    engine = FakeEngine(script=replies(submit(summary="x")))
    runner = stage.runner(engine)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.lowlevel.checkpoint()
            await runner.abort(context.attempt.id, CANCEL)
    assert outcomes[0].state is AttemptState.CANCELLED
    await runner.abort(context.attempt.id, CANCEL)


async def test_a_cancelled_caller_leaves_a_readable_record(stage: Any) -> None:
    asked = anyio.Event()

    def script(conversation: Conversation) -> Reply:
        asked.set()
        return Reply(fault=Fault.STALL)

    engine = FakeEngine(script=script)
    context = await stage.attempt()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(stage.runner(engine).run, context)
            await asked.wait()
            group.cancel_scope.cancel()
    assert engine.sessions[0].left
    assert [event.type for event in await stage.events()][-1] == "session.closed"
    assert [entry.role for entry in await stage.transcript()] == ["user", "note"]


def _steer(store: Any, run_id: str, text: str) -> MessageRecord:
    sent: MessageRecord = store.send_message(
        run_id, sender="operator", recipient="work", kind=MessageKind.STEER, body=text
    )
    return sent


async def test_a_steer_is_seen_at_the_next_model_call(stage: Any) -> None:
    context = await stage.attempt()
    asked, steered = anyio.Event(), anyio.Event()

    async def wait_here(arguments: Any, _: ToolContext) -> ToolOutput:
        asked.set()
        await steered.wait()
        return ToolOutput(text="ok")

    stage.extra_tools = (tool("wait_here", wait_here),)

    def script(conversation: Conversation) -> Reply:
        if any("look at auth.py first" in text for text in conversation.user_texts):
            return submit(summary="looked")
        return call("wait_here")

    runner = stage.runner(FakeEngine(script=script))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run, context)
            await asked.wait()
            steer = await stage.writer.run(lambda store: _steer(store, stage.run.id, "look at auth.py first"))
            assert (await runner.deliver(context, steer.id)).outcome is ReceiptOutcome.INJECTED
            steered.set()
    assert any("look at auth.py first" in entry.content for entry in await stage.transcript())


# --- what the run has stored ---


async def test_a_session_reads_what_its_own_run_has_stored_and_nothing_else(stage: Any) -> None:
    await stage.execute(replies(submit(summary="found it")))
    (scope,) = stage.scopes
    prompt = await stage.writer.run(lambda store: store.put_artifact(stage.run.id, "log", b"mine"))
    other = await stage.writer.run(
        lambda store: store.put_artifact(
            store.create_run(
                NewRun(goal="g", team="t", workflow="w", cwd="/", spec="{}"), [], actor="cli"
            ).id,
            "log",
            b"not mine",
        )
    )

    assert await scope.read_artifact(prompt.sha256[:12]) == b"mine"
    for ref in (other.sha256, prompt.sha256[:4], ""):
        with pytest.raises(UnknownName):
            await scope.read_artifact(ref)
