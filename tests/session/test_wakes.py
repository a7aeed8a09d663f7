"""Sessions that have ended are woken by their mail, answer it, and rest again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.models.mail import MessageKind, MessageRecord, MessageState, ReceiptOutcome
from crew_plugin.models.spec import StepSpec
from crew_plugin.session.mail import MailPolicy
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

STEPS = tuple(StepSpec(id=key, role=key, agent="worker", task=f"Do {key}.") for key in ("alice", "bob"))


def use(name: str, **arguments: Any) -> Reply:
    return Reply(calls=(ToolUse(name=name, arguments=arguments),))


DONE = use("submit_result", summary="ok")


def by_task(**scripts: Script) -> Script:
    def script(conversation: Conversation) -> Reply:
        key = next(key for key in scripts if f"You are task `{key}`" in conversation.system)
        return scripts[key](conversation)

    return script


def woken(reply: Reply | Callable[[Conversation], Reply]) -> Script:
    """Submits at first; once woken, does this."""

    def script(conversation: Conversation) -> Reply:
        if not conversation.find("You are woken"):
            return DONE
        if conversation.tool_results and conversation.tool_results[-1].name == "irc":
            return Reply(text="I have answered")
        return reply(conversation) if callable(reply) else reply

    return script


class Woken:
    """Stands where a driver would: wakes by starting a follow-up in a task group."""

    def __init__(self, stage: Any, runner: Any, group: Any) -> None:
        self.calls: list[str] = []
        self._stage, self._runner, self._group = stage, runner, group
        self.contexts: dict[str, AttemptContext] = {}
        self.slot = anyio.Event()
        """Woken sessions wait for this."""
        self.slot.set()
        self._one = {"alice": anyio.Lock(), "bob": anyio.Lock()}

    def __call__(self, key: str) -> str | None:
        self.calls.append(key)
        self._group.start_soon(self._follow, key)
        return None

    async def _follow(self, key: str) -> None:
        await self.slot.wait()
        async with self._one[key]:
            await self._runner.follow_up(self.contexts[key])

    async def attempt(self, key: str) -> AttemptContext:
        self.contexts[key] = replace(await self._stage.attempt(key), wake=self)
        return self.contexts[key]

    async def execute(self, key: str) -> None:
        context = await self.attempt(key)
        await self._stage.settle(context, await self._runner.run(context))


async def play(make_stage: Any, script: Script, *keys: str, policy: MailPolicy | None = None) -> Any:
    stage = await make_stage(STEPS)
    stage.engine = FakeEngine(script=script)
    runner = stage.runner(stage.engine, mail=policy)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            stage.wake = Woken(stage, runner, group)
            for key in keys:
                await stage.wake.execute(key)
    return stage


async def mail(stage: Any, kind: MessageKind | None = None) -> list[MessageRecord]:
    messages = await stage.writer.read(lambda store: store.list_messages(stage.run.id))
    return [message for message in messages if kind in (None, message.kind)]


def asks(await_reply: bool = True) -> Script:
    def script(conversation: Conversation) -> Reply:
        results = conversation.tool_results
        if not results:
            return use("irc", op="send", to="bob", message="which port?", await_reply=await_reply, seconds=10)
        return use("submit_result", summary=results[-1].text)

    return script


async def summary(stage: Any, key: str = "alice") -> str:
    results = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    tasks = await stage.writer.read(lambda store: store.load_tasks(stage.run.id))
    task = next(task for task in tasks if task.key == key)
    return str(next(result.summary for result in results if result.task_id == task.id))


async def test_an_ended_peer_is_woken_and_its_answer_ends_the_wait(make_stage: Any) -> None:
    script = by_task(alice=asks(), bob=woken(use("irc", op="send", to="alice", message="port 8080")))
    stage = await play(make_stage, script, "bob", "alice")
    told = await summary(stage)
    assert "bob: had ended and is woken to read it." in told
    assert "port 8080" in told
    assert [message.state for message in await mail(stage)] == [MessageState.READ] * 2
    [event] = await stage.events("session.woken")
    assert event.data["by"] == ["alice"]
    [rested] = await stage.events("session.rested")
    assert rested.data["outcome"] == "answered"


async def test_a_woken_session_knows_what_was_said_and_cannot_submit_again(make_stage: Any) -> None:
    script = by_task(alice=asks(), bob=woken(use("irc", op="send", to="alice", message="port 8080")))
    stage = await play(make_stage, script, "bob", "alice")
    first, again = [
        session for session in stage.engine.sessions if "task `bob`" in session.spec.system_prompt
    ]
    assert again.spec.system_prompt == first.spec.system_prompt
    assert again.messages[1:4] == first.messages[1:4]
    assert "submit_result" not in again.offered
    transcript = await stage.transcript("bob")
    assert [entry.content for entry in transcript if entry.role == "assistant"][-1] == "I have answered"


async def test_what_a_woken_session_uses_is_counted_and_its_result_stands(make_stage: Any) -> None:
    script = by_task(alice=asks(), bob=woken(use("irc", op="send", to="alice", message="port 8080")))
    stage = await play(make_stage, script, "bob", "alice")
    attempt = await stage.writer.read(
        lambda store: store.load_attempt(store.load_task(stage.run.id, "bob").attempt_id)
    )
    assert (attempt.steps, attempt.usage.calls) == (3, 3)
    assert await summary(stage, "bob") == "ok"


async def test_the_last_words_of_a_woken_session_that_wrote_to_nobody_are_relayed(make_stage: Any) -> None:
    script = by_task(alice=asks(), bob=woken(Reply(text="it listens on 8080")))
    stage = await play(make_stage, script, "bob", "alice")
    told = await summary(stage)
    assert "it listens on 8080" in told
    assert "transcript of run" in told
    [relay] = await mail(stage, MessageKind.RELAY)
    assert (relay.sender, relay.recipient, relay.state) == ("bob", "alice", MessageState.READ)


async def test_a_woken_session_without_a_word_is_told_of(make_stage: Any) -> None:
    stage = await play(make_stage, by_task(alice=asks(), bob=woken(Reply())), "bob", "alice")
    assert "ended its turn without a word" in await summary(stage)


async def test_a_woken_session_that_fails_is_always_told_of(make_stage: Any) -> None:
    answered: list[bool] = []

    def answers_and_fails(conversation: Conversation) -> Reply:
        if not conversation.find("You are woken"):
            return DONE
        answered.append(True)
        if len(answered) == 1:
            return use("irc", op="send", to="alice", message="wait, I look")
        return Reply(fault=Fault.UNAUTHORIZED)

    stage = await play(make_stage, by_task(alice=asks(), bob=answers_and_fails), "bob", "alice")
    [relay] = await mail(stage, MessageKind.RELAY)
    assert "could not deal with it: it failed" in relay.body


async def test_a_woken_session_that_is_stopped_with_the_run_tells_nobody_twice(make_stage: Any) -> None:
    def lingers(conversation: Conversation) -> Reply:
        if not conversation.find("You are woken"):
            return DONE
        if conversation.tool_results[-1].name == "irc":
            return Reply(text="and one more thing", delay=60)
        return use("irc", op="send", to="alice", message="port 8080")

    stage = await make_stage(STEPS)
    runner = stage.runner(FakeEngine(script=by_task(alice=asks(), bob=lingers)))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            wake = Woken(stage, runner, group)
            await wake.execute("bob")
            await wake.execute("alice")
            group.cancel_scope.cancel()  # as the end of the run does
    assert "port 8080" in await summary(stage)
    assert [(message.sender, message.state) for message in await mail(stage)] == [
        ("alice", MessageState.READ),
        ("bob", MessageState.READ),
    ]


async def test_a_woken_session_has_limits_of_its_own(make_stage: Any) -> None:
    endless = lambda c: use("irc", op="list") if c.find("You are woken") else DONE  # noqa: E731 - a script
    script = by_task(alice=asks(), bob=endless)
    stage = await play(make_stage, script, "bob", "alice", policy=MailPolicy(follow_up_steps=2))
    assert "it used all 2 model calls" in await summary(stage)


async def test_a_relay_wakes_nobody(make_stage: Any) -> None:
    script = by_task(alice=asks(await_reply=False), bob=woken(Reply(text="it listens on 8080")))
    stage = await play(make_stage, script, "bob", "alice")
    assert stage.wake.calls == ["bob"]
    assert len(await stage.events("session.woken")) == 1


async def test_two_ended_sessions_do_not_wake_each_other_for_ever(make_stage: Any) -> None:
    def replies(to: str) -> Script:
        def script(conversation: Conversation) -> Reply:
            if not conversation.find("You are woken"):
                return DONE
            if conversation.new_results:
                return Reply(text="sent")
            return use("irc", op="send", to=to, message="and you?")

        return script

    stage = await make_stage(STEPS)
    runner = stage.runner(FakeEngine(script=by_task(alice=replies("bob"), bob=replies("alice"))))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            wake = Woken(stage, runner, group)
            for key in ("alice", "bob"):
                await wake.execute(key)
            first = await stage.writer.run(
                lambda store: store.send_message(
                    stage.run.id, sender="bob", recipient="alice", kind=MessageKind.MESSAGE, body="hello"
                )
            )
            receipt = await runner.deliver(wake.contexts["alice"], first.id)
    assert receipt.outcome is ReceiptOutcome.WOKEN
    assert len(wake.calls) <= 2 * MailPolicy().wakes_session
    refused = [message for message in await mail(stage) if message.state is MessageState.DEAD]
    assert refused[-1].kind is MessageKind.MESSAGE


async def test_messages_that_come_at_once_wake_a_session_once(make_stage: Any) -> None:
    stage = await make_stage(STEPS)
    engine = FakeEngine(script=woken(Reply(text="read them all")))
    runner = stage.runner(engine)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            wake = Woken(stage, runner, group)
            await wake.execute("bob")
            wake.slot = anyio.Event()

            def send(store: Any) -> list[MessageRecord]:
                return [
                    store.send_message(
                        stage.run.id, sender="operator", recipient="bob", kind=MessageKind.STEER, body=body
                    )
                    for body in ("one", "two", "three")
                ]

            receipts = [
                await runner.deliver(wake.contexts["bob"], message.id)
                for message in await stage.writer.run(send)
            ]
            wake.slot.set()
    assert [receipt.outcome for receipt in receipts] == [ReceiptOutcome.WOKEN] * 3
    assert len(await stage.events("session.woken")) == 1
    prompt = engine.sessions[-1].messages[-2]["content"]
    assert all(body in prompt for body in ("one", "two", "three"))


async def test_a_session_is_woken_only_so_often(make_stage: Any) -> None:
    policy = MailPolicy(wakes_session=1)
    stage = await make_stage(STEPS)
    runner = stage.runner(FakeEngine(script=woken(Reply(text="read"))), mail=policy)
    outcomes: list[ReceiptOutcome] = []
    for _ in range(2):
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                wake = Woken(stage, runner, group)
                if not outcomes:
                    await wake.execute("bob")
                    context = wake.contexts["bob"]
                wake.contexts["bob"] = replace(context, wake=wake)
                message = await stage.writer.run(
                    lambda store: store.send_message(
                        stage.run.id, sender="operator", recipient="bob", kind=MessageKind.STEER, body="?"
                    )
                )
                receipt = await runner.deliver(wake.contexts["bob"], message.id)
                outcomes.append(receipt.outcome)
    assert outcomes == [ReceiptOutcome.WOKEN, ReceiptOutcome.FAILED]
    assert "which is the limit" in receipt.reason


async def test_a_run_that_ends_over_a_woken_session_says_so(make_stage: Any) -> None:
    started = anyio.Event()

    def hangs(conversation: Conversation) -> Reply:
        if not conversation.find("You are woken"):
            return DONE
        started.set()
        return Reply(held=True)

    stage = await make_stage(STEPS)
    runner = stage.runner(FakeEngine(script=hangs))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            wake = Woken(stage, runner, group)
            await wake.execute("bob")
            message = await stage.writer.run(
                lambda store: store.send_message(
                    stage.run.id, sender="operator", recipient="bob", kind=MessageKind.STEER, body="?"
                )
            )
            await runner.deliver(wake.contexts["bob"], message.id)
            await started.wait()
            group.cancel_scope.cancel()
    [relay] = await mail(stage, MessageKind.RELAY)
    assert relay.recipient == "operator"
    assert "it was stopped" in relay.body


async def test_a_follow_up_is_given_when_the_turn_ends_and_before_any_reminder(make_stage: Any) -> None:
    stage = await make_stage(STEPS)

    def script(conversation: Conversation) -> Reply:
        return DONE if conversation.find("also do X") else Reply(text="I think I am done")

    engine = FakeEngine(script=script)
    runner = stage.runner(engine)
    context = await stage.attempt("bob")
    await stage.writer.run(
        lambda store: store.send_message(
            stage.run.id, sender="operator", recipient="bob", kind=MessageKind.STEER, body="be brief"
        )
    )
    # Sent while the session runs: from inside its first model call.
    sent: list[str] = []
    inner = script

    def sends(conversation: Conversation) -> Reply:
        if not sent:
            sent.append("sent")
            return use("tell")
        return inner(conversation)

    engine.script = sends
    stage.extra_tools = (teller(stage, runner, context, sent),)
    with anyio.fail_after(20):
        await runner.run(context)
    assert sent[1:] == ["queued"]
    assert await stage.events("session.reminded") == []


def teller(stage: Any, runner: Any, context: AttemptContext, sent: list[str]) -> Any:
    from crew_plugin.host import ToolOutput, ToolSpec

    async def execute(arguments: Any, tool: Any) -> ToolOutput:
        message = await stage.writer.run(
            lambda store: store.send_message(
                stage.run.id, sender="operator", recipient="bob", kind=MessageKind.FOLLOW_UP, body="also do X"
            )
        )
        sent.append((await runner.deliver(context, message.id)).outcome)
        return ToolOutput(text="told")

    return ToolSpec(name="tell", description="", parameters={"type": "object"}, execute=execute)
