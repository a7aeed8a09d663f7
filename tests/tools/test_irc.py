"""`irc`: forgiving in form, clear receipts, errors that name who is there."""

from types import SimpleNamespace
from typing import Any

import pytest

from crew_plugin.errors import UnknownName
from crew_plugin.host import ToolContext, ToolError
from crew_plugin.models.mail import Receipt, ReceiptOutcome
from crew_plugin.session.mail import MailPolicy
from crew_plugin.session.prompt import Peer
from crew_plugin.session.waits import Waited
from crew_tools.irc import irc_tool

pytestmark = pytest.mark.anyio


class Post:
    """Takes every message to a known task."""

    def __init__(self) -> None:
        self.sent: list[tuple[tuple[str, ...], str]] = []
        self.waits: list[tuple[tuple[str, ...], float]] = []

    policy = MailPolicy(reply_seconds=5, reply_max_seconds=9)

    async def await_reply(self, peers: tuple[str, ...], seconds: float) -> Waited:
        self.waits.append((peers, seconds))
        return Waited(reason="no answer came")

    async def send(
        self, to: tuple[str, ...], text: str, *, reply_within: float | None = None
    ) -> tuple[Receipt, ...]:
        known = ("explore", "verify", "ended", "all")
        for key in to:
            if key not in known:
                raise UnknownName("task in this run", key, known)
        self.sent.append((to, text))
        failed = Receipt(to="ended", outcome=ReceiptOutcome.FAILED, reason="it has ended")
        return tuple(
            failed if key == "ended" else Receipt(to=key, outcome=ReceiptOutcome.INJECTED) for key in to
        )

    async def peers(self) -> tuple[Peer, ...]:
        return (
            Peer(key="explore", role="explorer", title="Map the code", state="running"),
            Peer(key="verify", role="verifier", title="", state="queued"),
        )


async def call(post: Post, **arguments: Any) -> Any:
    scope: Any = SimpleNamespace(mail=post, context=SimpleNamespace(task=SimpleNamespace(key="review")))
    return await irc_tool(scope).execute(arguments, ToolContext(session="s", call_id="c"))


async def test_a_message_is_sent_and_each_recipient_has_a_receipt() -> None:
    post = Post()
    output = await call(post, op="send", to="explore, ended", message="hi")
    assert post.sent == [(("explore", "ended"), "hi")]
    assert output.text == "explore: will see it at its next step.\nended: not delivered; it has ended."
    assert [receipt["outcome"] for receipt in output.details["receipts"]] == ["injected", "failed"]
    assert not output.ends_session


@pytest.mark.parametrize(
    "to", ["explore,verify", ["explore", "verify"], '["explore", "verify"]', "@explore, `verify`"]
)
async def test_recipients_may_be_written_in_many_ways(to: Any) -> None:
    post = Post()
    await call(post, op="send", to=to, message="hi")
    assert post.sent == [(("explore", "verify"), "hi")]


async def test_a_message_without_an_operation_is_sent_and_empty_parameters_are_unset() -> None:
    post = Post()
    await call(post, op="", to="ALL", message="hi", await_reply=None, invented=3)
    assert post.sent == [(("all",), "hi")]


async def test_the_list_names_the_tasks_and_where_they_stand() -> None:
    output = await call(Post(), op="list", to="", message=None)
    assert output.text.splitlines() == [
        "You are review.",
        "explore (explorer): running. Map the code",
        "verify (verifier): queued.",
    ]


async def test_a_list_of_very_many_tasks_is_bounded_and_says_so() -> None:
    class Crowd(Post):
        async def peers(self) -> tuple[Peer, ...]:
            return tuple(Peer(key=f"t{n}", role="r", title="", state="running") for n in range(1000))

    output = await call(Crowd(), op="list")
    assert output.text.endswith("and 940 more tasks; `send` takes the key of any of them")
    assert len(output.details["peers"]) == 60
    with pytest.raises(ToolError) as nobody:
        await call(Crowd(), op="send", message="hi")
    assert len(str(nobody.value)) < 1000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"op": "shout"}, "op must be one of: send, list, wait; got 'shout'"),
        ({"op": "send", "message": "hi"}, "Tasks: explore, verify"),
        ({"op": "send", "to": "explore", "message": " "}, "`message` is needed"),
        ({"op": "send", "to": "explorer", "message": "hi"}, "did you mean 'explore'"),
    ],
)
async def test_a_wrong_call_is_told_what_is_right(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ToolError) as caught:
        await call(Post(), **arguments)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "waits"),
    [
        ({"await_reply": True}, [(("explore",), 5)]),
        ({"await_reply": "true", "seconds": "3"}, [(("explore",), 3)]),
        ({"await_reply": True, "seconds": 3600}, [(("explore",), 9)]),
        ({"await_reply": False, "seconds": 3}, []),
    ],
)
async def test_an_answer_is_waited_for_if_wanted_and_not_for_ever(
    arguments: dict[str, Any], waits: list[Any]
) -> None:
    post = Post()
    await call(post, op="send", to="explore", message="where?", **arguments)
    assert post.waits == waits


async def test_nobody_is_waited_for_who_cannot_answer() -> None:
    post = Post()
    output = await call(post, op="send", to="ended", message="where?", await_reply=True)
    assert post.waits == []
    assert "Not waiting" in output.text


async def test_waiting_needs_a_task_and_a_time_above_nothing() -> None:
    with pytest.raises(ToolError, match="the keys of tasks"):
        await call(Post(), op="wait", to="all")
    with pytest.raises(ToolError, match="a number above 0"):
        await call(Post(), op="wait", to="explore", seconds=-1)
