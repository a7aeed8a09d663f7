"""Other plugins of Bub at work inside sessions of ours: told who the session is, heard, and on record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bub.framework import BubFramework
from bub.hooks import hookimpl
from bub.hooks.interception import LlmCallDecision, LlmCallRequest, ToolCall, ToolCallDecision, ToolCallResult
from bub.tools import REGISTRY, Tool, ToolContext

from crew_hooks.bub.binding import CrewPlugin
from crew_hooks.bub.compat.bridge import Bridge
from crew_plugin.host import ToolEnded, TurnEnded
from crew_plugin.models.records import Effect
from crew_plugin.testing.conversation import Reply, ToolUse
from tests.hosts.bub_chat import framework_with_crew
from tests.hosts.bub_engine import Play, tool
from tests.hosts.test_bub_guests import LOOK, RAISED, Hosted, SpecOf, acted, look_once
from tests.session.conftest import limits, make_stage

__all__ = ["limits", "make_stage"]

pytestmark = [pytest.mark.anyio, pytest.mark.bub]


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
    assert ended["find"] == (True, "found elsewhere!")
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


@pytest.mark.parametrize("error", RAISED)
async def test_a_plugins_tool_that_raises_ends_no_session(
    hosted: Hosted, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    async def handler() -> str:
        raise error

    made = Tool(name="broken", handler=handler, description="Fails.", parameters={"type": "object"})
    monkeypatch.setitem(REGISTRY, "broken", made)
    journal = Notes()
    play = Play(Reply(calls=(ToolUse(name="broken", arguments={}),)), Reply(text="ok"))
    async with hosted(play) as host:
        spec = spec_of(host, host_tools=("broken",), journal=journal)
        async with host.engine.open(spec) as session:
            events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    (ended,) = (event for event in events if isinstance(event, ToolEnded))
    assert not ended.ok
    assert [name for name, _ in journal.calls] == ["broken"]


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
