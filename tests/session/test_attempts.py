"""What a task was told is not lost when one of its attempts fails and another one follows."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.models.mail import MessageKind, MessageState, Receipt
from crew_plugin.models.spec import StepSpec
from crew_plugin.models.states import AttemptState
from crew_plugin.session.mail import Mailbox
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

STEPS = tuple(StepSpec(id=key, role=key, agent="worker", task=f"Do {key}.") for key in ("alice", "bob"))
DONE = Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "done"}),))
LOOK = Reply(calls=(ToolUse(name="look"),))
BROKEN = Reply(fault=Fault.SERVER_ERROR)


class Play:
    """Bob's attempts, one after the other, and what he is told meanwhile."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.prompts: list[str] = []
        self.replies: list[Reply] = []
        self.runner = stage.runner(FakeEngine(script=self._answer))
        self.context: AttemptContext | None = None
        stage.extra_tools = (self._look(),)
        self.told: list[tuple[str, str, MessageKind]] = []
        """What `look` brings along: sender, text and kind."""
        self.receipts: list[Receipt] = []

    def _answer(self, said: Conversation) -> Reply:
        self.prompts.append(said.last_user)
        return self.replies.pop(0)

    def _look(self) -> Any:
        from crew_plugin.host import ToolOutput, ToolSpec

        async def execute(arguments: Any, tool: Any) -> ToolOutput:
            for sender, text, kind in self.told:
                await self.say(sender, text, kind)
            self.told.clear()
            return ToolOutput(text="nothing to see")

        return ToolSpec(name="look", description="", parameters={"type": "object"}, execute=execute)

    async def say(self, sender: str, text: str, kind: MessageKind = MessageKind.STEER) -> None:
        message = await self.stage.writer.run(
            lambda store: store.send_message(
                self.stage.run.id, sender=sender, recipient="bob", kind=kind, body=text
            )
        )
        assert self.context is not None
        self.receipts.append(await self.runner.deliver(self.context, message.id))

    async def attempt(self, *replies: Reply, again: bool = False) -> Outcome:
        """One attempt; if `again`, another one follows what it fails with."""
        self.replies = list(replies)
        self.context = replace(await self.stage.attempt("bob"), again=lambda outcome: again)
        with anyio.fail_after(20):
            outcome: Outcome = await self.runner.run(self.context)
        return outcome

    async def follow(self) -> None:
        """Write down that the attempt failed and another one is due."""
        assert self.context is not None
        attempt_id = self.context.attempt.id
        await self.stage.writer.run(
            lambda store: store.end_attempt(
                self.stage.lease, attempt_id, AttemptState.FAILED, task_state=None, actor="supervisor"
            )
        )

    async def states(self) -> list[MessageState]:
        messages = await self.stage.writer.read(lambda store: store.list_messages(self.stage.run.id))
        return [message.state for message in messages]


@pytest.fixture
async def play(make_stage: Any) -> Play:
    return Play(await make_stage(STEPS))


async def test_a_steer_in_a_request_that_failed_is_read_by_the_next_attempt(play: Play) -> None:
    play.told = [("operator", "use tabs", MessageKind.STEER)]
    outcome = await play.attempt(LOOK, BROKEN, BROKEN, again=True)
    assert (outcome.state, outcome.retryable) == (AttemptState.FAILED, True)
    assert "use tabs" in play.prompts[-1]
    assert await play.states() == [MessageState.DELIVERED]
    await play.follow()
    assert await play.states() == [MessageState.ACCEPTED]
    await play.attempt(DONE)
    assert "# Messages that came before you started" in play.prompts[-1]
    assert "use tabs" in play.prompts[-1]
    assert await play.states() == [MessageState.READ]


async def test_what_an_attempt_has_read_is_told_to_the_next_one(play: Play) -> None:
    play.told = [("operator", "use tabs", MessageKind.STEER), ("alice", "I own b.py", MessageKind.MESSAGE)]
    await play.attempt(LOOK, LOOK, BROKEN, BROKEN, again=True)
    assert await play.states() == [MessageState.READ, MessageState.READ]
    await play.follow()
    await play.attempt(DONE)
    prompt = play.prompts[-1]
    assert "# Messages to the attempt before yours" in prompt
    assert "use tabs" in prompt
    assert "I own b.py" in prompt
    assert "# Messages that came before you started" not in prompt


async def test_mail_between_two_attempts_waits_for_the_next_one(play: Play) -> None:
    await play.attempt(BROKEN, BROKEN, again=True)
    for sender, kind in (("operator", MessageKind.STEER), ("alice", MessageKind.MESSAGE)):
        await play.say(sender, f"from {sender}", kind)
    assert [receipt.outcome for receipt in play.receipts] == ["queued", "queued"]
    assert "next session finds this in its prompt" in play.receipts[0].reason
    await play.follow()
    await play.attempt(DONE)
    assert "from operator" in play.prompts[-1]
    assert "from alice" in play.prompts[-1]
    assert await play.states() == [MessageState.READ, MessageState.READ]


async def test_without_another_attempt_it_is_dead_and_the_receipt_says_missed(play: Play) -> None:
    play.told = [("operator", "use tabs", MessageKind.STEER)]
    await play.attempt(LOOK, BROKEN, BROKEN)
    await play.say("operator", "too late")
    assert [receipt.outcome for receipt in play.receipts] == ["injected", "missed"]
    assert await play.states() == [MessageState.DEAD, MessageState.DEAD]


async def test_after_many_messages_the_next_attempt_is_told_the_last_ones_and_how_many_more(
    play: Play,
) -> None:
    play.told = [("operator", f"word {n}.", MessageKind.STEER) for n in range(15)]
    await play.attempt(LOOK, LOOK, BROKEN, BROKEN, again=True)
    await play.follow()
    await play.attempt(DONE)
    prompt = play.prompts[-1]
    assert "3 older ones are left out" in prompt
    assert [f"word {n}." in prompt for n in range(15)] == [False] * 3 + [True] * 12


async def test_a_message_that_comes_just_as_a_turn_has_ended_is_seen_before_a_held_result_is_taken(
    make_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    start = ToolUse(name="bash", arguments={"command": "make", "background": True})
    kill = Reply(calls=(ToolUse(name="bash_kill", arguments={"shell_id": "job-1"}),))
    late = ["look at auth.py"]
    asked: list[str] = []

    def script(said: Conversation) -> Reply:
        asked.append(said.last_user)
        if said.find("look at auth.py"):
            return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "with auth.py"}),))
        steps = [Reply(calls=(start,)), DONE, kill, Reply(text="That is all.")]
        return steps[len(said.tool_results)]

    async def never(arguments: Any) -> str:
        await anyio.sleep_forever()
        return ""

    runner = stage.runner(FakeEngine(script=script, host_tools={"bash": never}))
    context = await stage.attempt()
    after_turn = Mailbox.after_turn

    async def and_meanwhile(box: Mailbox) -> Any:
        if late:
            text = late.pop()
            message = await stage.writer.run(
                lambda store: store.send_message(
                    stage.run.id, sender="operator", recipient="work", kind=MessageKind.STEER, body=text
                )
            )
            assert (await runner.deliver(context, message.id)).outcome == "injected"
        return await after_turn(box)

    monkeypatch.setattr(Mailbox, "after_turn", and_meanwhile)
    with anyio.fail_after(20):
        outcome = await runner.run(context)
    assert outcome.state is AttemptState.COMPLETED
    [result] = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    assert result.summary == "with auth.py"
    assert await stage.events("session.reminded") == []
    [message] = await stage.writer.read(lambda store: store.list_messages(stage.run.id))
    assert message.state is MessageState.READ
