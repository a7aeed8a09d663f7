"""Sessions: attempts executed by an engine, here or in worker processes."""

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.host import Engine
from crew_plugin.models.causes import Cause
from crew_plugin.models.facts import ModelTable
from crew_plugin.models.mail import MessageRecord, Receipt
from crew_plugin.models.states import SessionKind
from crew_plugin.session.followup import FollowUp
from crew_plugin.session.live import LiveSession
from crew_plugin.session.mail import MailPolicy, MailRoom
from crew_plugin.session.scope import ResultRules, Toolbox
from crew_plugin.store.writer import StoreWriter

__all__ = ["SessionRunner"]


class SessionRunner:
    """Implements `TaskRunner` over an `Engine`."""

    def __init__(
        self,
        *,
        engine: Engine,
        writer: StoreWriter,
        toolbox: Toolbox,
        rules: ResultRules | None = None,
        table: ModelTable | None = None,
        mail: MailPolicy | None = None,
        kind: SessionKind = SessionKind.LIVE,
    ) -> None:
        self._kind = kind
        self._table = table or ModelTable()
        self._engine = engine
        self._writer = writer
        self._toolbox = toolbox
        self._rules = rules or ResultRules()
        self._room = MailRoom(writer, policy=mail)
        self._live: dict[str, LiveSession] = {}

    @property
    def kind(self) -> SessionKind:
        """Live, or in processes of their own: that is the engine's doing."""
        return self._kind

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self._engine.name

    async def run(self, context: AttemptContext) -> Outcome:
        """Execute one attempt to its end."""
        session = LiveSession(
            context,
            engine=self._engine,
            writer=self._writer,
            toolbox=self._toolbox,
            room=self._room,
            rules=self._rules,
            table=self._table,
        )
        self._live[context.attempt.id] = session
        try:
            return await session.run()
        finally:
            del self._live[context.attempt.id]

    async def abort(self, attempt_id: str, cause: Cause) -> None:
        """Make `run` of this attempt return soon."""
        session = self._live.get(attempt_id)
        if session is not None:
            session.stop(cause)

    async def interrupt(self, attempt_id: str, cause: Cause, message: MessageRecord | None = None) -> bool:
        """Stop the turn under way and go on with the same conversation. False if there is none."""
        session = self._live.get(attempt_id)
        return session is not None and await session.interrupt(cause, message)

    async def deliver(self, context: AttemptContext, message_id: str) -> Receipt:
        """Hand a message that was written down to its recipient, or wake it. Never waits for it."""
        message = await self._writer.read(lambda store: store.load_message(message_id))
        return await self._room.hand_over(message, wake=context.wake)

    async def follow_up(self, context: AttemptContext) -> None:
        """Hold one further conversation of an ended attempt over the mail that waits for its task."""
        await FollowUp(
            context,
            engine=self._engine,
            writer=self._writer,
            toolbox=self._toolbox,
            room=self._room,
            table=self._table,
        ).run()
