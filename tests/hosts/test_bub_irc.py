"""Agents of one run that talk to each other inside a real Bub, and are gone on with later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from crew_plugin.crew import Crew
from crew_plugin.engine.plan import ParallelTask, plan_parallel
from crew_plugin.engine.resume import plan_resume
from crew_plugin.errors import CallerError
from crew_plugin.host import ToolContext, ToolError
from crew_plugin.models.mail import MessageKind, MessageState
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import RunState
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from crew_tools.crew_agent import tools
from tests.hosts.bub_terminal import BubHome
from tests.hosts.test_bub_crew import hosted

pytestmark = [pytest.mark.bub, pytest.mark.anyio]

WAIT = 40


def home_of(folder: Path) -> BubHome:
    """A project with an agent that need not hand in any data."""
    home = BubHome.make(folder, None)
    agents = home.project / ".crew" / "agents"
    agents.mkdir(parents=True)
    (agents / "talks.md").write_text("---\nname: talks\ntools: read\n---\nYou talk.\n", encoding="utf-8")
    return home


def use(tool: str, **arguments: object) -> Reply:
    return Reply(calls=(ToolUse(name=tool, arguments=arguments),))


def by_task(**scripts: Callable[[Conversation], Reply]) -> Script:
    def script(conversation: Conversation) -> Reply:
        key = next(key for key in scripts if f"You are task `{key}`" in conversation.system)
        return scripts[key](conversation)

    return script


async def carried_out(crew: Crew, *goals: str, chained: bool = False) -> RunRecord:
    """A run of these tasks, side by side or one after the other, to its end."""
    tasks = [ParallelTask(goal=goal, agent="talks") for goal in goals]
    spec = plan_parallel(await crew.catalog(), crew.settings, tasks=tasks, cwd=str(crew.project.root))
    if chained:
        after = [step.model_copy(update={"depends_on": ("t1",)}) for step in spec.steps[1:]]
        spec = spec.model_copy(update={"steps": (spec.steps[0], *after)})
    run = await crew.supervisor.submit(spec, parent=None, background=False, actor="tester")
    with anyio.fail_after(WAIT):
        return await crew.supervisor.execute(run.id)


async def summaries(crew: Crew, run: RunRecord) -> list[str]:
    return [each.summary for each in await crew.writer.read(lambda store: store.list_results(run.id))]


@pytest.mark.usefixtures("either_runtime")
async def test_an_agent_whose_provider_fails_is_told_again_what_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[str] = []

    def asks(conversation: Conversation) -> Reply:
        if conversation.find("port 8080") and not broken:
            broken.append("once")
            return Reply(fault=Fault.SERVER_ERROR)
        if not conversation.find("port 8080"):
            return use("irc", op="wait", to="t2", seconds=20)
        return use("submit_result", summary=conversation.last_user)

    def answers(conversation: Conversation) -> Reply:
        if not conversation.tool_results:
            return use("irc", op="send", to="t1", message="port 8080")
        return use("submit_result", summary="told t1")

    script = by_task(t1=asks, t2=answers)
    async with hosted(home_of(tmp_path), monkeypatch, script, model_retries=0) as crew:
        run = await carried_out(crew, "ask", "answer")
        attempts = await crew.writer.read(lambda store: [task.attempts for task in store.load_tasks(run.id)])
        [message] = await crew.writer.read(lambda store: store.list_messages(run.id))
        assert run.state is RunState.COMPLETED
        prompt, _ = await summaries(crew, run)
    assert attempts == [2, 1]
    assert "port 8080" in prompt
    assert message.state is MessageState.READ


@pytest.mark.usefixtures("either_runtime")
async def test_two_agents_ask_and_answer_while_both_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(conversation: Conversation) -> Reply:
        if not conversation.find("t2 is ready"):
            return use("irc", op="wait", to="t2", seconds=20)
        if not conversation.find("port 8080"):
            return use("irc", op="send", to="t2", message="which port?", await_reply=True, seconds=20)
        return use("submit_result", summary="it is 8080")

    def answers(conversation: Conversation) -> Reply:
        if conversation.find("which port"):
            if conversation.tool_results[-1].arguments.get("message") == "port 8080":
                return use("submit_result", summary="told t1")
            return use("irc", op="send", to="t1", message="port 8080")
        if not conversation.tool_results:
            return use("irc", op="send", to="t1", message="t2 is ready")
        return use("irc", op="wait", to="t1", seconds=20)

    async with hosted(home_of(tmp_path), monkeypatch, by_task(t1=asks, t2=answers)) as crew:
        run = await carried_out(crew, "ask", "answer")
        messages = await crew.writer.read(lambda store: store.list_messages(run.id))
        assert run.state is RunState.COMPLETED
        assert await summaries(crew, run) == ["it is 8080", "told t1"]
    assert [(message.body, message.state) for message in messages] == [
        ("t2 is ready", MessageState.READ),
        ("which port?", MessageState.READ),
        ("port 8080", MessageState.READ),
    ]


async def test_two_agents_that_ask_each_other_at_once_both_get_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asking(other: str) -> Callable[[Conversation], Reply]:
        def script(conversation: Conversation) -> Reply:
            if not conversation.tool_results:
                return use("irc", op="send", to=other, message="and?", await_reply=True, seconds=600)
            if len(conversation.tool_results) == 1:
                return use("irc", op="send", to=other, message="go on")
            return use("submit_result", summary="went on")

        return script

    async with hosted(
        home_of(tmp_path), monkeypatch, by_task(t1=asking("t2"), t2=asking("t1")), process_sessions=2
    ) as crew:
        run = await carried_out(crew, "ask", "ask too")
        messages = await crew.writer.read(lambda store: store.list_messages(run.id))
        assert run.state is RunState.COMPLETED
        assert await summaries(crew, run) == ["went on", "went on"]
    final = (MessageState.READ, MessageState.DEAD, MessageState.EXPIRED)
    assert [message.body for message in messages if message.state not in final] == []


async def test_an_agent_whose_time_is_over_while_it_waits_for_an_answer_hands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(conversation: Conversation) -> Reply:
        if not conversation.tool_results:
            return use("irc", op="send", to="t2", message="which port?", await_reply=True, seconds=600)
        return use("submit_result", summary="nobody told me")

    def silent(conversation: Conversation) -> Reply:
        if conversation.offered("read"):
            return Reply(text="I think.", delay=30)
        return use("submit_result", summary="thought enough")

    limits = {"turn_seconds": 1.0, "idle_seconds": 20.0, "process_sessions": 2}
    async with hosted(home_of(tmp_path), monkeypatch, by_task(t1=waits, t2=silent), **limits) as crew:
        run = await carried_out(crew, "wait", "think")
        messages = await crew.writer.read(lambda store: store.list_messages(run.id))
        events = await crew.writer.read(lambda store: store.tail(run.id, limit=10_000))
        assert run.state is RunState.COMPLETED
        assert await summaries(crew, run) == ["nobody told me", "thought enough"]
    reached = [event.data["limit"] for event in events if event.type == "session.limit_reached"]
    assert reached == ["turn_seconds", "turn_seconds"]
    (asked,) = [message for message in messages if message.sender == "t1"]
    assert asked.state in (MessageState.READ, MessageState.DEAD, MessageState.EXPIRED)


@pytest.mark.usefixtures("either_runtime")
@pytest.mark.parametrize("answers", [True, False], ids=["answers by mail", "only says it"])
async def test_a_finished_agent_is_woken_by_a_question_and_its_answer_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    def finished(conversation: Conversation) -> Reply:
        if not conversation.find("You are woken"):
            return use("submit_result", summary="looked at the port")
        if answers and not conversation.new_results:
            return use("irc", op="send", to="t2", message="port 8080")
        return Reply(text="port 8080")

    def asks(conversation: Conversation) -> Reply:
        if not conversation.tool_results:
            return use("irc", op="send", to="t1", message="which port?", await_reply=True, seconds=20)
        return use("submit_result", summary=conversation.tool_results[-1].text)

    async with hosted(home_of(tmp_path), monkeypatch, by_task(t1=finished, t2=asks)) as crew:
        run = await carried_out(crew, "look", "ask", chained=True)
        told = (await summaries(crew, run))[1]
        messages = await crew.writer.read(lambda store: store.list_messages(run.id))
        events = [event.type for event in await crew.writer.read(lambda store: store.tail(run.id))]
    assert "t1: had ended and is woken to read it." in told
    assert "port 8080" in told
    answer = MessageKind.MESSAGE if answers else MessageKind.RELAY
    assert [(message.sender, message.kind, message.state) for message in messages] == [
        ("t2", MessageKind.MESSAGE, MessageState.READ),
        ("t1", answer, MessageState.READ),
    ]
    assert ("session.woken" in events, "session.rested" in events) == (True, True)


@pytest.mark.usefixtures("either_runtime")
async def test_a_finished_agent_goes_on_with_all_it_knew_in_a_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(conversation: Conversation) -> Reply:
        if conversation.last_user.find("And the host?") < 0:
            call = ToolUse(name="submit_result", arguments={"summary": "found it"})
            return Reply(text="it is port 8080", calls=(call,))
        knew = conversation.find("port 8080")
        return use("submit_result", summary=f"{len(conversation.user_texts)} texts, knew {knew}")

    async with hosted(home_of(tmp_path), monkeypatch, script) as crew:
        run = await carried_out(crew, "which port?")
        spec = await crew.writer.read(
            lambda store: plan_resume(store, run=run.id, task=None, text="And the host?")
        )
        again = await crew.supervisor.submit(spec, parent=None, background=False, actor="tester")
        with anyio.fail_after(WAIT):
            again = await crew.supervisor.execute(again.id)
        assert again.state is RunState.COMPLETED
        assert await summaries(crew, again) == ["2 texts, knew port 8080"]
        third = await crew.writer.read(
            lambda store: plan_resume(store, run=again.id, task=None, text="And the host? Again.")
        )
        last = await crew.supervisor.submit(third, parent=None, background=False, actor="tester")
        with anyio.fail_after(WAIT):
            last = await crew.supervisor.execute(last.id)
        assert await summaries(crew, last) == ["3 texts, knew port 8080"]


async def test_a_model_goes_on_with_an_agent_and_reads_what_agents_wrote_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(conversation: Conversation) -> Reply:
        if not conversation.new_results:
            return use("irc", op="send", to="parent", message=f"hello number {len(conversation.user_texts)}")
        return use("submit_result", summary=conversation.new_results[-1].text)

    async with hosted(home_of(tmp_path), monkeypatch, script) as crew:

        async def source() -> Crew:
            return crew

        (start,) = (tool for tool in tools(source) if tool.name == "crew_agent")
        context = ToolContext(session="s", call_id="c")
        with anyio.fail_after(WAIT):
            first = await start.execute({"prompt": "say hello", "subagent_type": "talks"}, context)
            agent_id = first.details["agent_id"]
            again: dict[str, Any] = {"prompt": "and again", "resume": agent_id}
            other = {"runtime": "scaffold", "schema": {"type": "object"}, "model": "openai:other"}
            with pytest.raises(ToolError, match="leave out model, runtime, schema, subagent_type"):
                await start.execute({**again, **other, "subagent_type": "executor"}, context)
            second = await start.execute({**again, "subagent_type": "talks", "model": None}, context)
    assert "parent: queued; it is shown with the run's results." in first.text
    assert "messages of tasks to you (1):\n[talks]\n| hello number 1" in first.text
    assert "| hello number 2" in second.text
    assert second.details["agent_id"] != agent_id


async def test_a_run_that_goes_on_or_said_nothing_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(home_of(tmp_path), monkeypatch, lambda _: Reply(text="hm")) as crew:
        spec = plan_parallel(
            await crew.catalog(),
            crew.settings,
            tasks=[ParallelTask(goal="x", agent="talks")],
            cwd=str(crew.project.root),
        )
        run = await crew.supervisor.submit(spec, parent=None, background=False, actor="tester")
        with pytest.raises(CallerError, match=r"still goes on .* steer it instead"):
            await crew.writer.read(lambda store: plan_resume(store, run=run.id, task=None, text="go on"))
        dry = spec.model_copy(update={"runtime": "scaffold", "runtime_requested": "scaffold"})
        written = await crew.supervisor.submit(dry, parent=None, background=False, actor="tester")
        with anyio.fail_after(WAIT):
            await crew.supervisor.execute(written.id)
        with pytest.raises(CallerError, match="there is no transcript"):
            await crew.writer.read(lambda store: plan_resume(store, run=written.id, task=None, text="go on"))
