"""What a session does when the model provider fails."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace

import pytest

from crew_hooks.bub.session import BubSession
from crew_plugin.errors import EngineError
from crew_plugin.host import (
    ModelAnswered,
    ModelBusy,
    ModelRetrying,
    SessionFailed,
    SessionSpec,
    ToolEnded,
    TurnEnded,
)
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.testing.conversation import Fault, Reply, ToolUse
from tests.hosts.bub_engine import Host, Play, tool, turn, until

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]


async def failure(host: Host, spec: SessionSpec) -> EngineError:
    async with host.engine.open(spec) as session:
        await session.prompt("go")
        _, failed = await until(session, SessionFailed)
        assert [event async for event in session.events()] == []
    assert isinstance(failed.error, EngineError)
    return failed.error


@pytest.mark.parametrize("fault", [Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.BROKEN_STREAM])
async def test_a_failure_that_passes_is_tried_again(hosted: Hosted, spec_of: SpecOf, fault: Fault) -> None:
    play = Play(Reply(text="half " * 300, fault=fault, retry_after=0.05), Reply(text="whole"))
    async with hosted(play) as host, host.engine.open(spec_of(host)) as session:
        events = await turn(session, "go")
    retried, answered = (event for event in events if isinstance(event, ModelRetrying | ModelAnswered))
    assert isinstance(retried, ModelRetrying)
    assert (retried.attempt, retried.of) == (1, 4)
    assert isinstance(answered, ModelAnswered)
    assert answered.text == "whole"
    assert events[-1] == TurnEnded(text="whole")


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.HALF_TOOL_CALL])
async def test_a_failure_means_the_same_on_the_first_call_and_on_later_ones(
    hosted: Hosted, spec_of: SpecOf, fault: Fault
) -> None:
    broken = Reply(text="half " * 300, fault=fault, retry_after=0.05)
    limits = LimitsSpec(model_retries=0, idle_seconds=0.4)
    async with hosted(Play(broken)) as host:
        first = await failure(host, spec_of(host, limits=limits))
    good = Reply(calls=(ToolUse(name="look", arguments={}),))
    async with hosted(Play(good, broken)) as host:
        later = await failure(host, spec_of(host, limits=limits, tools=(tool("look"),)))
    assert (later.kind, later.retryable, later.retry_after) == (
        first.kind,
        first.retryable,
        first.retry_after,
    )
    assert str(later) == str(first)


async def test_a_stream_that_breaks_in_a_tool_call_runs_the_tool_once(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    use = ToolUse(name="look", arguments={"text": "x" * 2000})
    play = Play(Reply(calls=(use,), fault=Fault.BROKEN_STREAM), Reply(calls=(use,)), Reply(text="ok"))
    tools = (tool("look", lambda arguments: str(len(arguments["text"]))),)
    async with hosted(play) as host, host.engine.open(spec_of(host, tools=tools)) as session:
        events = await turn(session, "go")
    assert [event.text for event in events if isinstance(event, ToolEnded)] == ["2000"]


async def test_a_retry_waits_as_long_as_the_provider_asks(hosted: Hosted, spec_of: SpecOf) -> None:
    play = Play(Reply(fault=Fault.RATE_LIMIT, retry_after=0.3), Reply(text="ok"))
    async with hosted(play) as host, host.engine.open(spec_of(host)) as session:
        events = await turn(session, "go")
    (retried,) = (event for event in events if isinstance(event, ModelRetrying))
    assert retried.delay >= 0.3
    first, second = host.model.arrivals
    assert second - first >= 0.3


async def test_retries_end_at_their_limit_and_are_counted_by_us_alone(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with hosted(lambda _: Reply(fault=Fault.RATE_LIMIT, retry_after=0.001)) as host:
        error = await failure(host, spec_of(host, limits=LimitsSpec(model_retries=2)))
    assert (error.kind, error.retryable) == ("rate_limit", True)
    assert len(host.model.requests) == 3


async def test_a_provider_that_falls_silent_is_given_up_before_the_idle_limit(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with hosted(lambda _: Reply(fault=Fault.STALL)) as host:
        error = await failure(host, spec_of(host, limits=LimitsSpec(model_retries=0, idle_seconds=0.2)))
    assert error.kind == "timeout"


@pytest.mark.parametrize(("idle", "signs"), [(3.0, 12), (300.0, 2)])
async def test_a_model_that_puts_out_its_answer_says_so_well_within_the_idle_limit(
    hosted: Hosted, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, idle: float, signs: int
) -> None:
    now = [0.0]
    monkeypatch.setattr("crew_hooks.bub.session.time", SimpleNamespace(monotonic=lambda: now[0]))
    async with hosted(lambda _: Reply(text="ok")) as host:
        async with host.engine.open(spec_of(host, limits=LimitsSpec(idle_seconds=idle))) as session:
            assert isinstance(session, BubSession)
            session.proceed()
            for _ in range(48):  # twelve seconds
                now[0] += 0.25
                session.output()
        told = [event async for event in session.events()]
    assert told == [ModelBusy()] * signs


async def test_a_refused_key_is_not_tried_again_and_names_the_setting(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with hosted(lambda _: Reply(fault=Fault.UNAUTHORIZED)) as host:
        error = await failure(host, spec_of(host))
    assert (error.kind, error.retryable) == ("auth", False)
    assert "BUB_API_KEY" in str(error)
    assert "BUB_MODEL" in str(error)
    assert "bub onboard" in str(error)
    assert len(host.model.requests) == 1


async def test_a_missing_key_names_the_setting(
    hosted: Hosted, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(lambda _: Reply(text="never")) as host:
        monkeypatch.delenv("BUB_API_KEY")
        error = await failure(host, spec_of(host))
    assert error.kind == "auth"
    assert "BUB_API_KEY" in str(error)
    assert host.model.requests == []


async def test_a_model_without_a_provider_names_the_setting(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(text="never")) as host:
        error = await failure(host, spec_of(host, model="just-a-name"))
    assert (error.kind, error.retryable) == ("bad_request", False)
    assert "just-a-name" in str(error)
    assert "BUB_MODEL" in str(error)


async def test_a_rejected_request_is_not_tried_again(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(fault=Fault.BAD_REQUEST)) as host:
        error = await failure(host, spec_of(host))
    assert (error.kind, error.retryable) == ("bad_request", False)
    assert len(host.model.requests) == 1


async def test_a_full_context_ends_the_session_and_drops_no_history(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(fault=Fault.CONTEXT_OVERFLOW)) as host:
        error = await failure(host, spec_of(host))
    assert error.kind == "context_overflow"
    assert len(host.model.requests) == 1


async def test_a_server_that_is_not_there_is_a_network_error(
    hosted: Hosted, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    async with hosted(lambda _: Reply(text="never")) as host:
        monkeypatch.setenv("BUB_API_BASE", f"http://127.0.0.1:{free_port}/v1")
        error = await failure(host, spec_of(host, limits=LimitsSpec(model_retries=1)))
    assert (error.kind, error.retryable) == ("network", True)
    assert "Cannot connect to host 127.0.0.1" in str(error)
    assert "timed out" not in str(error)
