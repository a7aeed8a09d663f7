"""A chat's history is not cut while its crew works, and when it is cut nothing of the crew is lost."""

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crew_hooks.bub.guard import roster, told_of
from crew_plugin.models.records import NewRun, ParentRef, Usage
from crew_plugin.models.states import RunState
from crew_plugin.store.port import RunStore
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.store.writer import StoreWriter
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from tests.hosts.bub_chat import Chat, chat, team_script
from tests.ui.runs import open_book, project_in

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bub,
    # Bub makes a client for each model call of a parent and closes none of them.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Provider-specific exceptions:DeprecationWarning"),
]

TIMEOUT = 40
GOAL = "look at app.py in the background"
_HANDS_OFF = Reply(
    calls=(ToolUse(name="tape_handoff", arguments={"name": "cut", "summary": "We talked about app.py."}),)
)


def _parent(does: Callable[[Conversation], Reply | None] = lambda _: None) -> Script:
    """Workers that are held at their first answer, and a parent that hands off when it is told to."""

    def script(conversation: Conversation) -> Reply:
        reply = team_script(conversation)
        if conversation.offered("submit_result"):
            return Reply(calls=reply.calls, held=not conversation.tool_results)
        own = does(conversation)
        if own is not None:
            return own
        if "hand off" in conversation.last_user and not conversation.new_results:
            return _HANDS_OFF
        return reply

    return script


def _tape(home: Path) -> list[dict[str, Any]]:
    lines = "".join(path.read_text(encoding="utf-8") for path in (home / "tapes").glob("*.jsonl"))
    return [json.loads(line) for line in lines.splitlines()]


def _anchors(home: Path, name: str) -> list[dict[str, Any]]:
    return [
        entry["payload"]
        for entry in _tape(home)
        if entry["kind"] == "anchor" and entry["payload"]["name"] == name
    ]


async def _started(bub: Chat) -> str:
    """A run in the background whose worker waits for its model."""
    await bub.say(GOAL)
    await bub.hear("TOOL SAID")
    await bub.until(lambda: bub.server.in_flight == 1)
    run = bub.store(lambda store: store.load_run("last"))
    assert run.state is RunState.RUNNING
    return run.id


def _told(bub: Chat, run: str, kind: str) -> list[Any]:
    return [event for event in bub.store(lambda store: store.tail(run)) if event.type == kind]


async def test_a_handoff_by_the_model_is_put_off_and_done_when_the_last_run_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "bub"
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent()) as bub:
        run = await _started(bub)
        await bub.say("please hand off")
        answer = await bub.hear("Put off by the crew")
        assert run in answer
        await bub.say("what did I say first?")
        await bub.hear("what did I say first?")
        assert _anchors(home, "cut") == []
        assert any(GOAL in text for text in bub.server.requests[-1].conversation.user_texts)

        bub.server.release()
        await bub.hear("RECEIVED")
        await bub.until(lambda: bool(_anchors(home, "cut")))
        (anchor,) = _anchors(home, "cut")
        assert anchor["state"]["summary"].startswith("We talked about app.py.")
        await bub.until(lambda: bool(_told(bub, run, "parent.compacted")))
        assert [event.data["how"] for event in _told(bub, run, "parent.compaction_put_off")] == [
            "tape.handoff"
        ]
        await bub.say("and now?")
        await bub.hear("and now?")
        assert not any(GOAL in text for text in bub.server.requests[-1].conversation.user_texts)


async def test_a_persons_reset_is_put_off_once_and_done_at_once_with_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent()) as bub:
        run = await _started(bub)
        await bub.say(",tape.reset")
        assert ",tape.reset force=true" in await bub.hear("Put off by the crew")
        await bub.say("still there?")
        await bub.hear("still there?")
        assert any(GOAL in text for text in bub.server.requests[-1].conversation.user_texts)

        await bub.say(",tape.reset force=true")
        await bub.hear("ok")
        await bub.say("and now?")
        await bub.hear("and now?")
        after = bub.server.requests[-1].conversation
        assert not any(GOAL in text for text in after.user_texts), "the history was cut"
        assert f"{GOAL}\n</goal>" in after.system, "what it must know stands there word for word"
        assert run in after.system
        assert after.system.count("<crew_runs>") == 1
        assert [event.data["how"] for event in _told(bub, run, "parent.compacted")] == ["tape.reset"]
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_without_active_runs_a_command_cuts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent()) as bub:
        await bub.say("hello there")
        await bub.hear("hello there")
        await bub.say(",tape.handoff name=mine summary='all said'")
        await bub.hear("anchor added: mine")
        await bub.until(lambda: bool(_anchors(tmp_path / "bub", "mine")))


async def test_a_history_that_is_nearly_full_is_cut_although_runs_are_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(conversation: Conversation) -> Reply | None:
        if "how full" in conversation.last_user:
            return Reply(text="VERY FULL", usage=Usage(input=192_000, output=100, calls=1))
        if any("anchor added: cut" in result.text for result in conversation.new_results):
            return Reply(text="HISTORY IS CUT")
        if "hand off" in conversation.last_user:
            return replace(_HANDS_OFF, usage=Usage(input=192_000, output=100, calls=1))
        return None

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent(full)) as bub:
        run = await _started(bub)
        await bub.say("how full is it?")
        await bub.hear("VERY FULL")
        await bub.say("please hand off")
        await bub.hear("HISTORY IS CUT")

        await bub.until(lambda: bool(_anchors(tmp_path / "bub", "cut")))
        (anchor,) = _anchors(tmp_path / "bub", "cut")
        assert run in anchor["state"]["summary"]
        assert GOAL in anchor["state"]["summary"]
        after = bub.server.requests[-1].conversation
        assert f"{GOAL}\n</goal>" in after.system
        (event,) = _told(bub, run, "parent.compacted")
        assert event.data["full"] == pytest.approx(0.96, abs=0.01)
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_a_summary_that_names_a_run_takes_its_goal_out_of_no_model_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    def full(conversation: Conversation) -> Reply | None:
        if any("anchor added: cut" in result.text for result in conversation.new_results):
            return Reply(text="HISTORY IS CUT")
        if "hand off" in conversation.last_user:
            summary = {"name": "cut", "summary": f"Run {runs[0]} is under way: {GOAL}."}
            return Reply(
                calls=(ToolUse(name="tape_handoff", arguments=summary),),
                usage=Usage(input=192_000, output=100, calls=1),
            )
        return None

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent(full)) as bub:
        runs.append(await _started(bub))
        await bub.say("please hand off")
        await bub.hear("HISTORY IS CUT")
        await bub.say("and now?")
        await bub.hear("and now?")
        assert f"{GOAL}\n</goal>" in bub.server.requests[-1].conversation.system
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_a_list_of_runs_takes_their_goals_out_of_no_model_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(conversation: Conversation) -> Reply | None:
        if "which runs" not in conversation.last_user:
            return None
        if conversation.new_results:
            return Reply(text="THESE RUNS")
        return Reply(calls=(ToolUse(name="team", arguments={"action": "list"}),))

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent(asks)) as bub:
        run = await _started(bub)
        await bub.say(",tape.reset force=true")
        await bub.hear("ok")
        await bub.say("which runs are there?")
        await bub.hear("THESE RUNS")
        await bub.say("and now?")
        await bub.hear("and now?")
        after = bub.server.requests[-1].conversation
        assert any(run in result.text for result in after.tool_results)
        assert f"{GOAL}\n</goal>" in after.system
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_at_three_quarters_of_the_window_the_model_is_asked_to_hand_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filling(conversation: Conversation) -> Reply | None:
        if "how full" in conversation.last_user:
            return Reply(text="RATHER FULL", usage=Usage(input=155_000, output=100, calls=1))
        return None

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent(filling)) as bub:
        await _started(bub)
        await bub.say("how full is it?")
        await bub.hear("RATHER FULL")
        assert "tape_handoff" not in bub.server.requests[-1].conversation.system.partition("<crew_runs>")[2]
        await bub.say("carry on, please")
        await bub.hear("carry on, please")
        asked = bub.server.requests[-1].conversation.system.partition("<crew_runs>")[2]
        assert "fills 78% of its model's context" in asked
        assert "Call tape_handoff at the next good moment" in asked
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_when_bub_drops_an_overlong_history_everything_of_the_crew_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflows(conversation: Conversation) -> Reply | None:
        if "too much" in conversation.last_user and len(conversation.messages) > 2:
            return Reply(fault=Fault.CONTEXT_OVERFLOW)
        return None

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent(overflows)) as bub:
        run = await _started(bub)
        await bub.say("this is too much")
        await bub.hear("this is too much")
        after = bub.server.requests[-1].conversation
        assert not any(GOAL in text for text in after.user_texts), "Bub dropped the history"
        assert f"{GOAL}\n</goal>" in after.system
        assert run in after.system
        assert [event.data["how"] for event in _told(bub, run, "parent.compacted")] == ["overflow"]
        bub.server.release()
        await bub.hear("RECEIVED")


# --- Bub's own subagents -------------------------------------------------------------------------


def _delegates(answers: Callable[[Conversation], Reply], *, tokens: int = 0) -> Script:
    """A parent that, told to delegate, lets a subagent of Bub's do a SUBTASK."""

    def does(conversation: Conversation) -> Reply | None:
        if "SUBTASK" in conversation.last_user:
            return answers(conversation)
        if "delegate" not in conversation.last_user:
            return None
        if conversation.new_results:
            return Reply(text=f"DELEGATED: {conversation.new_results[-1].text}")
        use = ToolUse(name="subagent", arguments={"prompt": "SUBTASK", "session": "temp"})
        return Reply(calls=(use,), usage=Usage(input=tokens, output=10, calls=1))

    return _parent(does)


async def test_a_subagents_handoff_is_its_own_and_cuts_no_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(conversation: Conversation) -> Reply:
        if conversation.new_results:
            return Reply(text=f"SUBAGENT HEARD {conversation.new_results[-1].text}")
        return _HANDS_OFF

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _delegates(answers)) as bub:
        run = await _started(bub)
        await bub.say("please delegate")
        assert "SUBAGENT HEARD anchor added: cut" in await bub.hear("DELEGATED")
        bub.server.release()
        await bub.hear("RECEIVED")
        await bub.say("and now?")
        await bub.hear("and now?")
        assert any(GOAL in text for text in bub.server.requests[-1].conversation.user_texts)
        assert _told(bub, run, "parent.compaction_put_off") == []
        assert _told(bub, run, "parent.compacted") == []


async def test_what_a_subagent_uses_fills_no_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(_: Conversation) -> Reply:
        return Reply(text="SUBAGENT DONE", usage=Usage(input=500, output=10, calls=1))

    script = _delegates(answers, tokens=155_000)
    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, script) as bub:
        await _started(bub)
        await bub.say("please delegate")
        await bub.hear("DELEGATED")
        subagents, parents = (request.conversation.system for request in bub.server.requests[-2:])
        assert "<crew_runs>" not in subagents
        assert "fills 78% of its model's context" in parents
        bub.server.release()
        await bub.hear("RECEIVED")


async def test_a_history_that_a_subagent_loses_is_not_the_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflows = [Reply(fault=Fault.CONTEXT_OVERFLOW)]

    def answers(_: Conversation) -> Reply:
        return overflows.pop() if overflows else Reply(text="SUBAGENT DONE")

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _delegates(answers)) as bub:
        run = await _started(bub)
        await bub.say("please delegate")
        await bub.hear("DELEGATED")
        assert overflows == []
        assert _told(bub, run, "parent.compacted") == []
        bub.server.release()
        await bub.hear("RECEIVED")


# --- a store that does not answer in time --------------------------------------------------------


async def test_without_knowing_what_is_active_nothing_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = StoreWriter.read

    async def late(self: StoreWriter, look: Callable[[RunStore], Any]) -> Any:
        await asyncio.sleep(0.3)
        return await read(self, look)

    async with asyncio.timeout(TIMEOUT), chat(tmp_path, monkeypatch, _parent()) as bub:
        run = await _started(bub)
        with monkeypatch.context() as slow:
            slow.setattr("crew_hooks.bub.keeper._READ_SECONDS", 0.05)
            slow.setattr(StoreWriter, "read", late)
            await bub.say(",tape.reset")
            answer = await bub.hear("Put off by the crew")
            assert "did not say in time" in answer
            assert ",tape.reset force=true" in answer
            await bub.say("still there?")
            await bub.hear("still there?")
        assert any(GOAL in text for text in bub.server.requests[-1].conversation.user_texts)
        await bub.until(lambda: bool(_told(bub, run, "parent.compaction_put_off")))

        bub.server.release()
        await bub.hear("RECEIVED")
        await bub.until(lambda: bool(_told(bub, run, "parent.compacted")))
        await bub.say("and now?")
        await bub.hear("and now?")
        after = bub.server.requests[-1].conversation
        assert not any(GOAL in text for text in after.user_texts), "it was done in the end"


# --- what a history holds ------------------------------------------------------------------------

PARENT = ParentRef(host="bub", session="test:chat", route={})


def _history(goal: str) -> list[dict[str, Any]]:
    function = {"name": "team", "arguments": json.dumps({"action": "run", "goal": goal})}
    return [{"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}]}]


def _asking(schema: dict[str, Any]) -> NewRun:
    step = {"id": "explorer", "result_schema": schema}
    spec = json.dumps({"steps": [step]})
    return NewRun(
        goal='say "go"\nand go', team="solo", workflow="explorer", cwd="/w", spec=spec, parent=PARENT
    )


def test_only_the_call_that_asked_for_a_run_stands_for_its_goal(tmp_path: Path) -> None:
    with closing(SqliteStore.open(project_in(tmp_path))) as store:
        run = open_book(store, goal='say "go"\nand go', parent=PARENT).run
        asked = _history(run.goal)
        assert "<goal>" not in roster(store, PARENT, told_of(asked))
        for history in (
            [],
            _history('say "go"'),
            [{"role": "assistant", "content": f"{run.id} was told: {run.goal}"}],
            [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}, {}]}],
        ):
            assert f"<goal>\n{run.goal}\n</goal>" in roster(store, PARENT, told_of(history))


def test_a_contract_that_the_call_did_not_give_is_repeated_with_the_goal(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["files"]}
    with closing(SqliteStore.open(project_in(tmp_path))) as store:
        run = store.create_run(_asking(schema), [], actor="operator")
        told = roster(store, PARENT, told_of(_history(run.goal)))
        assert f"<goal>\n{run.goal}\n</goal>" in told
        assert json.dumps(schema) in told
        whole = _history(run.goal)
        function = whole[0]["tool_calls"][0]["function"]
        function["arguments"] = json.dumps({"goal": run.goal, "schema": schema})
        assert "<goal>" not in roster(store, PARENT, told_of(whole))
