"""Other plugins of Bub inside sessions of ours: heard, told who the session is, and never its end."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from bub.framework import BubFramework
from bub.hooks import hookimpl
from bub.hooks.interception import LlmCallDecision, LlmCallRequest, ToolCall, ToolCallDecision, ToolCallResult
from bub.tape import TapeContext
from bub.tools import REGISTRY, Tool, ToolContext

from crew_hooks.bub.binding import CrewPlugin
from crew_hooks.bub.compat.bridge import Bridge
from crew_plugin.host import PluginActed, Session, SessionEvent, SessionSpec, ToolEnded, TurnEnded
from crew_plugin.models.records import Effect
from crew_plugin.testing.conversation import Reply, ToolUse
from tests.hosts.bub_chat import framework_with_crew
from tests.hosts.bub_engine import Host, Play, tool, turn

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
LOOK = Reply(calls=(ToolUse(name="look", arguments={"text": "here"}),))
SYNC = ("system_prompt", "build_tape_context")
ASYNC = (
    "load_state",
    "provide_environment",
    "continue_prompt",
    "before_llm_call",
    "after_llm_call",
    "before_tool_call",
    "after_tool_call",
    "save_state",
)
SEEN_LIVE = {*SYNC, *ASYNC} - {"save_state"}
"""What a session still tells: its state is saved when nobody listens any more."""


def misbehaving(names: tuple[str, ...], act: Callable[[str], Any]) -> object:
    """A plugin that implements these hooks, each by this act."""

    def make(name: str) -> Callable[[], Any]:
        if name in SYNC:
            return lambda: act(name)

        async def hook() -> Any:
            return await act(name) if asyncio.iscoroutinefunction(act) else act(name)

        return hook

    return type("Bad", (), {name: staticmethod(hookimpl(make(name))) for name in names})()


def acted(events: list[SessionEvent]) -> list[PluginActed]:
    return [event for event in events if isinstance(event, PluginActed)]


async def look_once(session: Session) -> list[SessionEvent]:
    async with asyncio.timeout(10):
        return await turn(session, "go")


@pytest.mark.parametrize("error", [ZeroDivisionError("bad"), SystemExit(3), asyncio.CancelledError()])
async def test_a_plugin_whose_every_hook_raises_ends_no_session_and_is_told_of(
    hosted: Hosted, spec_of: SpecOf, log: list[str], error: BaseException
) -> None:
    def raises(name: str) -> None:
        raise error

    bad = misbehaving((*SYNC, *ASYNC), raises)
    async with (
        hosted(Play(LOOK, Reply(text="ok")), bad) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    assert [event.text for event in events if isinstance(event, ToolEnded)] == ["done"]
    assert {event.hook for event in acted(events)} == SEEN_LIVE
    assert {event.outcome for event in acted(events)} == {"failed"}
    assert any("save_state" in line for line in log)


async def test_a_plugin_that_hangs_costs_one_deadline_for_each_hook_and_ends_no_session(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async def hangs(name: str) -> None:
        await asyncio.Event().wait()

    play = Play(*[LOOK] * 10, Reply(text="ok"))
    async with (
        hosted(play, misbehaving(ASYNC, hangs), hook_seconds=0.05) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    told = acted(events)
    assert sorted(event.hook for event in told) == sorted(SEEN_LIVE - {*SYNC})  # once, over eleven steps
    assert {event.outcome for event in told} == {"timed_out"}


async def test_a_plugin_that_ignores_its_cancellation_costs_one_deadline_too(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    enough = asyncio.Event()

    async def ignores(name: str) -> None:
        while not enough.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await enough.wait()

    play = Play(*[LOOK] * 3, Reply(text="ok"))
    async with (
        hosted(play, misbehaving(ASYNC, ignores), hook_seconds=0.05) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        try:
            events = await look_once(session)
        finally:
            enough.set()
    assert events[-1] == TurnEnded(text="ok")
    assert {event.outcome for event in acted(events)} == {"timed_out"}


async def test_a_selector_of_the_history_that_raises_is_replaced_by_bubs(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    class Selects:
        @hookimpl
        def build_tape_context(self) -> TapeContext:
            def select(entries: object, context: TapeContext) -> list[dict[str, Any]]:
                raise KeyError("selector")

            return TapeContext(select=select)

    async with (
        hosted(Play(LOOK, Reply(text="ok")), Selects()) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    assert [message["role"] for message in host.model.requests[1].conversation.messages][-1] == "tool"


class Registrar:
    """Notes who it is told that the session is, hook by hook."""

    def __init__(self) -> None:
        self.told: dict[str, Mapping[str, str]] = {}
        self.saved: list[str] = []

    @hookimpl
    def load_state(self, message: dict[str, Any], session_id: str) -> dict[str, Any]:
        self.told["load_state"] = message["context"]["crew"]
        return {"mine": 1}

    @hookimpl
    def system_prompt(self, prompt: object, state: dict[str, Any]) -> str:
        self.told["system_prompt"] = state["crew"]
        return f"{state['crew']['role']} {state['mine']}"

    @hookimpl
    def before_llm_call(self, request: LlmCallRequest, state: dict[str, Any]) -> None:
        self.told["before_llm_call"] = state["crew"]

    @hookimpl
    async def after_llm_call(self, request: LlmCallRequest, state: dict[str, Any]) -> None:
        self.told["after_llm_call"] = state["crew"]

    @hookimpl
    async def before_tool_call(self, call: ToolCall, state: dict[str, Any]) -> None:
        self.told["before_tool_call"] = state["crew"]

    @hookimpl
    def after_tool_call(self, call: ToolCall, result: ToolCallResult, state: dict[str, Any]) -> None:
        self.told["after_tool_call"] = state["crew"]

    @hookimpl
    async def save_state(self, session_id: str, state: dict[str, Any], model_output: str) -> None:
        self.told["save_state"] = state["crew"]
        self.saved.append(model_output)


async def test_every_hook_is_told_which_run_task_role_agent_and_session_it_is_called_for(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    registrar = Registrar()
    async with hosted(Play(LOOK, Reply(text="bye")), registrar) as host:
        identity = {"run": "run_1", "task": "find", "role": "scout"}
        spec = spec_of(host, identity=identity, tools=(tool("look"),))
        async with host.engine.open(spec) as session:
            await look_once(session)
    who = {**identity, "agent": "explorer", "session": spec.session_id}
    assert registrar.told == dict.fromkeys(
        (
            "load_state",
            "system_prompt",
            "before_llm_call",
            "after_llm_call",
            "before_tool_call",
            "after_tool_call",
            "save_state",
        ),
        who,
    )
    assert host.model.requests[0].conversation.system == "You explore.\n\nscout 1"
    assert registrar.saved == ["bye"]


class Notes:
    """A journal in memory."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    async def begin(self, tool: str, arguments: Mapping[str, Any], effect: Effect) -> str:
        self.calls.append([tool, None])
        return str(len(self.calls) - 1)

    async def end(self, call_id: str, error: str | None, *, cancelled: bool = False) -> None:
        self.calls[int(call_id)][1] = error


class Policy:
    """Denies bash, answers `look` itself, and changes what `find` is asked and answers."""

    @hookimpl
    async def before_tool_call(self, call: ToolCall, state: dict[str, Any]) -> ToolCallDecision | None:
        if call.tool == "bash":
            return ToolCallDecision.deny("no shells on Sundays")
        if call.tool == "look":
            return ToolCallDecision.replace("seen from a cache")
        return ToolCallDecision.proceed({"text": "elsewhere"})

    @hookimpl
    def after_tool_call(self, call: ToolCall, result: ToolCallResult, state: dict[str, Any]) -> None:
        if call.tool == "find":
            result.result = f"{result.result}!"


async def test_what_a_policy_plugin_decides_is_honoured_and_on_the_journal(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    calls = Reply(
        calls=(
            ToolUse(name="bash", arguments={"command": "touch made"}),
            ToolUse(name="look", arguments={"text": "here"}),
            ToolUse(name="find", arguments={"text": "here"}),
        )
    )
    journal = Notes()
    looked: list[str] = []
    tools = (
        tool("look", lambda arguments: looked.append("look") or "never"),  # type: ignore[func-returns-value]  # noted
        tool("find", lambda arguments: f"found {arguments['text']}"),
    )
    async with hosted(Play(calls, Reply(text="ok")), Policy()) as host:
        spec = spec_of(host, tools=tools, host_tools=("bash",), journal=journal)
        async with host.engine.open(spec) as session:
            events = await look_once(session)
        assert not (host.folder / "made").exists()
    assert looked == []
    ended = {event.name: (event.ok, event.text) for event in events if isinstance(event, ToolEnded)}
    assert ended["bash"][0] is False
    assert "no shells on Sundays" in ended["bash"][1]
    assert ended["look"] == (True, "seen from a cache")
    seen = [result.text for result in host.model.requests[1].conversation.tool_results]
    assert seen[1:] == ["seen from a cache", "found elsewhere!"]
    assert journal.calls == [
        ["bash", f"not made; the plugin {acted(events)[0].plugin} denied it: no shells on Sundays"],
        ["look", f"not made; the plugin {acted(events)[0].plugin} gave a result in its place"],
    ]
    assert sorted((event.tool, event.outcome, event.text) for event in acted(events)) == [
        ("bash", "denied", "no shells on Sundays"),
        ("find", "changed", "its arguments"),
        ("find", "changed", "its result"),
        ("look", "replaced", ""),
    ]


async def test_a_plugin_that_finishes_a_model_call_is_told_of(hosted: Hosted, spec_of: SpecOf) -> None:
    class Thrifty:
        @hookimpl
        def before_llm_call(self, request: LlmCallRequest) -> LlmCallDecision:
            return LlmCallDecision.finish("enough was spent")

    async with (
        hosted(lambda _: Reply(text="never"), Thrifty()) as host,
        host.engine.open(spec_of(host)) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="enough was spent")
    assert [(event.outcome, event.text) for event in acted(events)] == [("finished", "enough was spent")]
    assert host.model.requests == []


@pytest.fixture
def weather() -> Any:
    """A tool that another plugin registered for everyone."""
    calls: list[Any] = []

    async def handler(place: str, context: ToolContext) -> str:
        calls.append(context.state["crew"]["task"])
        return f"rain in {place}"

    parameters = {"type": "object", "properties": {"place": {"type": "string"}}}
    REGISTRY["weather.now"] = Tool(
        name="weather.now", handler=handler, description="The weather.", parameters=parameters, context=True
    )
    yield calls
    del REGISTRY["weather.now"]


async def test_a_plugins_tool_is_offered_only_where_the_agent_lists_it(
    hosted: Hosted, spec_of: SpecOf, weather: list[str]
) -> None:
    ask = Reply(calls=(ToolUse(name="weather_now", arguments={"place": "Bonn"}),))
    journal = Notes()
    async with hosted(Play(ask, Reply(text="ok"), Reply(text="ok"))) as host:
        listed = await host.engine.available_tools(
            ("weather.now", "subagent", "team", "quit"), str(host.folder)
        )
        assert listed == ("weather.now",)  # none of Bub's own, none of the crew's
        spec = spec_of(host, host_tools=listed, identity={"task": "look"}, journal=journal)
        async with host.engine.open(spec) as session:
            events = await look_once(session)
        async with host.engine.open(spec_of(host)) as session:
            await look_once(session)
    assert [event.text for event in events if isinstance(event, ToolEnded)] == ["rain in Bonn"]
    assert weather == ["look"]
    assert journal.calls == [["weather_now", None]]
    assert host.model.requests[0].conversation.tools.keys() == {"weather_now"}
    assert host.model.requests[2].conversation.tools == {}


async def test_the_crews_own_hooks_for_a_chat_are_not_called_for_its_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crew_hooks.bub import plugin

    framework: BubFramework = framework_with_crew(tmp_path, monkeypatch, "http://127.0.0.1:9")
    crew = plugin(framework)
    assert isinstance(crew, CrewPlugin)
    framework.plugin_manager.register(crew, name="crew")
    bridge = Bridge(framework, guest=None, seconds=1)  # type: ignore[arg-type]  # nobody is asked
    for hook in ("load_state", "save_state", "before_llm_call", "after_llm_call", "before_tool_call"):
        assert "crew" not in [impl.plugin_name for impl in bridge.impls(hook)]
    assert [impl.plugin_name for impl in bridge.impls("before_tool_call")] == ["builtin"]
