"""The channel through which a finished background run reaches the chat that asked for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Final

from bub.channels.admission import AdmitDecision, TurnSnapshot
from bub.channels.base import Lifecycle
from bub.channels.message import ChannelMessage
from bub.envelope import Envelope

if TYPE_CHECKING:
    from bub.channels.contracts import MessageHandler

    from crew_plugin.models.records import ParentRef

__all__ = ["CHANNEL", "CrewChannel", "parent_message"]

CHANNEL: Final = "crew"


class CrewChannel(Lifecycle):
    """Runs beside the user's channels for as long as Bub's channel manager does."""

    name: ClassVar[str] = CHANNEL

    def __init__(
        self,
        message_handler: "MessageHandler",
        *,
        started: Callable[["CrewChannel"], Awaitable[None]],
        stopped: Callable[[], Awaitable[None]],
    ) -> None:
        self._handle = message_handler
        self._started = started
        self._stopped = stopped

    async def start(self, stop_event: asyncio.Event) -> None:
        """From now on results can be delivered."""
        await self._started(self)

    async def stop(self) -> None:
        """Bub's channels end before its environments and shells: the time to end our sessions."""
        await self._stopped()

    async def hand_in(self, message: ChannelMessage) -> None:
        """Give Bub a message: a new turn if its session is idle, else see `admit_message`."""
        await self._handle(message)

    async def admit_message(
        self, session_id: str, message: Envelope, turn: TurnSnapshot
    ) -> AdmitDecision | None:
        """A result joins the turn that is running."""
        if not turn.is_running:
            return None
        return AdmitDecision("steer", reason="a crew's result for the running turn")


def parent_message(parent: "ParentRef", text: str) -> ChannelMessage:
    """The message that carries `text` into the parent's session."""
    route = parent.route
    output = route.get("output_channel") or route.get("channel") or CHANNEL
    return ChannelMessage(
        session_id=parent.session,
        channel=CHANNEL,
        chat_id=route.get("chat_id", "default"),
        content=text,
        # Bub holds back what is not a command in channels that collect messages before they
        # answer. Set back to `normal` at admission.
        kind="command",
        context={"thread_id": route["thread_id"]} if route.get("thread_id") else {},
        output_channel=output,
    )
