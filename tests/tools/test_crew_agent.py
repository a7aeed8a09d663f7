"""`crew_agent` and `crew_agent_result`: one subagent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from crew_plugin.crew import Crew
from crew_plugin.engine.ports import AttemptContext
from crew_plugin.host import ToolContext, ToolError, ToolOutput
from crew_plugin.models.records import NewEvent, NewResult
from crew_tools.crew_agent import tools
from tests.tools.scripted import Scripted, caller, scripted_crew

pytestmark = pytest.mark.anyio


async def call(
    scripted: Scripted, tool: str, arguments: Mapping[str, Any], context: ToolContext
) -> ToolOutput:
    async def crew() -> Crew:
        return scripted.crew

    (spec,) = (spec for spec in tools(crew) if spec.name == tool)
    with anyio.fail_after(30):
        return await spec.execute(arguments, context)


async def test_an_agent_is_awaited_and_its_result_comes_back(scripted: Scripted) -> None:
    seen: list[AttemptContext] = []

    async def script(context: AttemptContext) -> NewResult:
        seen.append(context)
        return NewResult(summary="found it")

    scripted.script = script
    arguments = {
        "prompt": "find main",
        "description": "find main",
        "subagent_type": "explorer",
        "model": "x:y",
        "skill": False,
        "max_turns": "7",
        "run_in_background": "",
    }
    output = await call(scripted, "crew_agent", arguments, caller())
    assert output.text.startswith(f"agent_id: {output.details['agent_id']}\nrun ")
    assert "| found it" in output.text
    (context,) = seen
    assert context.step.agent == "explorer"
    assert (context.step.limits.steps, context.step.model, context.spec.skills) == (7, "x:y", False)


async def test_without_a_type_it_is_an_executor(scripted: Scripted) -> None:
    output = await call(scripted, "crew_agent", {"prompt": "do it", "subagent_type": ""}, caller())
    assert "| executor did: do it" in output.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "prompt is needed"),
        ({"prompt": "x", "subagent_type": "explorr"}, "did you mean 'explorer'"),
        ({"prompt": "x", "max_turns": 0}, "max_turns must be a whole number from 1 to 10000"),
    ],
)
async def test_a_wrong_call_is_told(scripted: Scripted, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolError, match=message):
        await call(scripted, "crew_agent", arguments, caller())


async def test_a_background_agent_gives_its_id_and_later_its_result(scripted: Scripted) -> None:
    release = anyio.Event()

    async def script(context: AttemptContext) -> NewResult:
        await release.wait()
        return NewResult(summary="late but there")

    scripted.script = script
    chat = caller(later=True)
    started = await call(scripted, "crew_agent", {"prompt": "x", "run_in_background": True}, chat)
    agent_id = started.details["agent_id"]
    early = await call(scripted, "crew_agent_result", {"agent_id": agent_id}, chat)
    assert "Still under way" in early.text
    release.set()
    # Another conversation gets no delivery, so it gets the result itself.
    late = await call(
        scripted, "crew_agent_result", {"agent_id": agent_id, "wait": "true"}, caller(session="b")
    )
    assert "| late but there" in late.text
    verbose = await call(scripted, "crew_agent_result", {"agentId": agent_id, "verbose": True}, chat)
    assert "| late but there" in verbose.text
    assert "run.completed" in verbose.text


async def test_a_verbose_look_shows_the_newest_events_and_counts_the_rest(scripted: Scripted) -> None:
    async def script(context: AttemptContext) -> NewResult:
        note = NewEvent(type="session.note", actor="executor", data={"text": "still at it"})
        await scripted.crew.writer.run(
            lambda store: store.append_events(context.lease, context.run.id, [note] * 300)
        )
        return NewResult(summary="done")

    scripted.script = script
    done = await call(scripted, "crew_agent", {"prompt": "x"}, caller())
    arguments = {"agent_id": done.details["agent_id"], "verbose": True}
    verbose = await call(scripted, "crew_agent_result", arguments, caller())
    assert "earlier; after_seq=0 begins with them" in verbose.text
    assert "run.created" not in verbose.text
    assert "run.completed" in verbose.text


async def test_where_nothing_can_come_later_it_waits_and_says_so(scripted: Scripted) -> None:
    output = await call(scripted, "crew_agent", {"prompt": "x", "run_in_background": True}, caller())
    assert "nothing can be delivered to this conversation later" in output.text
    assert "| executor did: x" in output.text


async def test_a_result_is_found_after_a_restart(root: Path) -> None:
    async with scripted_crew(root) as before:
        started = await call(before, "crew_agent", {"prompt": "x"}, caller())
    async with scripted_crew(root) as after:
        output = await call(after, "crew_agent_result", {"agent_id": started.details["agent_id"]}, caller())
    assert "| executor did: x" in output.text


async def test_an_unknown_id_is_told(scripted: Scripted) -> None:
    with pytest.raises(ToolError, match="there is no run"):
        await call(scripted, "crew_agent_result", {"agent_id": "run_nobody"}, caller())
    with pytest.raises(ToolError, match="agent_id is needed"):
        await call(scripted, "crew_agent_result", {}, caller())
