"""What a background run owes its parent reaches it once, whatever dies in between.

A finished run is handed to its parent session as one message that carries a delivery id. Once
that id stands in a user message of the session's saved tape, the delivery is acknowledged;
until then it is handed over again, but never while an earlier hand-over is still on its way.
The order is: look at the tape, write down that it is sent, hand it over.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from crew_plugin.models.records import DeliveryRecord, DeliveryState, EventRecord, Owner, ParentRef
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.store.follow import others

if TYPE_CHECKING:
    from bub.channels.message import ChannelMessage

    from crew_plugin.crew import Crew
    from crew_plugin.store.port import RunStore

__all__ = ["Delivery", "Parcel", "alive_owner", "delivery_ids", "process_text"]

_TOKEN: Final = re.compile(r"^\[crew delivery (\S+?)\]", re.MULTILINE)
"""At the start of a line, where no words of a worker can stand: those begin with `| `."""
_OWED: Final = (DeliveryState.PENDING, DeliveryState.SENT)
_NAMED: Final = 20
"""Result ids that are listed; `team` lists them all."""
_ENDED: Final = frozenset(f"run.{state}" for state in RUN_TERMINAL)


def delivery_ids(text: str) -> tuple[str, ...]:
    """The ids of the deliveries that a message carries."""
    return tuple(dict.fromkeys(_TOKEN.findall(text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Everything that one run owes its parent, as one message."""

    run_id: str
    ident: str
    """The delivery id that stands in the text and is looked for on the tape."""
    owed: tuple[str, ...]
    """All delivery ids that the message settles."""
    parent: ParentRef
    text: str
    sends: int


class Delivery:
    """Hands over what is owed to the sessions of this process, and sees to the acknowledgement."""

    def __init__(
        self,
        crew: "Crew",
        *,
        identity: Owner,
        send: Callable[[ParentRef, str], Awaitable["ChannelMessage | None"]],
        on_tape: Callable[[str, Sequence[str]], Awaitable[frozenset[str]]],
        report: Callable[[str], None],
    ) -> None:
        self._crew = crew
        self._identity = identity
        self._send = send
        self._on_tape = on_tape
        self._report = report
        self._todo: asyncio.Queue[str] = asyncio.Queue()
        self._on_the_way: WeakValueDictionary[str, ChannelMessage] = WeakValueDictionary()
        """Handed to Bub and not yet part of a turn. An entry is gone when Bub dropped the message."""
        self._in_a_turn: dict[str, str] = {}
        """Delivery id to run id, of those that a turn has taken and not ended with."""
        self._runs: dict[str, str] = {}
        """Delivery id to run id."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Hand over as runs of this process end, and when asked to by the other methods."""
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(asyncio.TaskGroup())
            pump = group.create_task(self._pump(), name="crew-delivery")
            stack.callback(pump.cancel)
            watch = group.create_task(self._watch_others(), name="crew-delivery-others")
            stack.callback(watch.cancel)
            stack.callback(self._crew.writer.subscribe(self._saw))
            yield

    async def _watch_others(self) -> None:
        """Hear of runs that supervisors of their own have driven to their end."""
        async for event in others(self._crew.writer):
            self._saw(event)

    def _saw(self, event: EventRecord) -> None:
        if event.type in _ENDED:
            self._todo.put_nowait(event.run_id)

    # --- what the hooks of the parent tell ---

    async def session_opened(self, session_id: str) -> None:
        """A session of the project was seen for the first time in this process."""
        for run_id in await self._crew.writer.read(lambda store: _owed_runs(store, session_id)):
            self._todo.put_nowait(run_id)

    def taken(self, idents: Iterable[str]) -> None:
        """A turn has made these deliveries part of a prompt."""
        for ident in idents:
            self._on_the_way.pop(ident, None)
            if ident in self._runs:
                self._in_a_turn[ident] = self._runs[ident]

    async def turn_ended(self, session_id: str, idents: Sequence[str], *, opened_by: Sequence[str]) -> None:
        """A turn that had taken these deliveries is over and its tape is saved.

        `opened_by` are those that were the turn's own prompt: if that turn failed, starting it
        again at once would fail again, so they wait for the session's next turn.
        """
        mine = [ident for ident in idents if ident in self._in_a_turn]
        saved = await self._on_tape(session_id, mine) if mine else frozenset[str]()
        failed: set[str] = set()
        for ident in mine:
            run_id = self._in_a_turn.pop(ident)
            if ident in saved:
                await self._acknowledge(run_id)
            elif ident in opened_by:
                failed.add(run_id)
        # Whatever else is owed, also what Bub was given and dropped: what is on its way is left alone.
        for run_id in await self._crew.writer.read(lambda store: _owed_runs(store, session_id)):
            if run_id not in failed:
                self._todo.put_nowait(run_id)

    # --- handing over ---

    async def _pump(self) -> None:
        while True:
            run_id = await self._todo.get()
            try:
                await self._hand_over(run_id)
            except Exception as error:  # noqa: BLE001 - told in the log; the other results are still owed
                self._report(f"the result of run {run_id} could not be handed over: {error}")

    async def _hand_over(self, run_id: str) -> None:
        parcel = await self._crew.writer.read(lambda store: _parcel(store, run_id))
        if parcel is None or self._under_way(parcel.ident):
            return
        self._runs[parcel.ident] = run_id
        if parcel.sends and parcel.ident in await self._on_tape(parcel.parent.session, [parcel.ident]):
            await self._acknowledge(run_id)
            return
        keep = self._crew.settings.delivery.keep_hours * 3600
        claimed = await self._crew.writer.run(
            lambda store: _claim(store, parcel, identity=self._identity, keep_seconds=keep)
        )
        if not claimed:
            return
        message = await self._send(parcel.parent, parcel.text)
        if message is not None:
            self._on_the_way[parcel.ident] = message

    def _under_way(self, ident: str) -> bool:
        return ident in self._on_the_way or ident in self._in_a_turn

    async def _acknowledge(self, run_id: str) -> None:
        await self._crew.writer.run(lambda store: _settle(store, run_id))


# --- against the store: each of these is one transaction ---------------------------------------


def _owed_runs(store: "RunStore", session_id: str) -> tuple[str, ...]:
    rows = store.list_deliveries(states=_OWED)
    return tuple(
        dict.fromkeys(row.run_id for row in rows if row.parent.host == "bub" and _opens_here(row, session_id))
    )


def _opens_here(row: DeliveryRecord, session_id: str) -> bool:
    """A terminal shows one session; other channels reach all of theirs at any time."""
    return row.parent.session == session_id or row.parent.route.get("channel") != "cli"


def _parcel(store: "RunStore", run_id: str) -> Parcel | None:
    from crew_tools.team.answer import read_answer

    rows = store.list_deliveries(run_id=run_id, states=_OWED)
    if not rows or rows[0].parent.host != "bub" or store.load_run(run_id).state not in RUN_TERMINAL:
        return None
    # The row for the run's end; without one (a run closed by hand) the last that is owed.
    last = next((row for row in rows if row.task_id is None), rows[-1])
    answer = read_answer(store, run_id)
    results = [row.result_id for row in rows if row.result_id is not None]
    return Parcel(
        run_id=run_id,
        ident=last.id,
        owed=tuple(row.id for row in rows),
        parent=last.parent,
        text=(
            f"[crew delivery {last.id}] The background run {run_id} that was started from this "
            f"conversation has ended ({answer.view.shown_state}). This message comes from the crew plugin, "
            "not from the user: tell the user what matters in it.\n\n"
            f"{answer.text}{_listed(results)}"
        ),
        sends=last.sends,
    )


def _listed(results: Sequence[str]) -> str:
    if not results:
        return ""
    more = f" and {len(results) - _NAMED} more" if len(results) > _NAMED else ""
    return f"\nresult ids: {', '.join(results[:_NAMED])}{more}"


def _claim(store: "RunStore", parcel: Parcel, *, identity: Owner, keep_seconds: float) -> bool:
    """Take the hand-over for this process, unless it is somebody else's or too late."""
    rows = [row for row in store.list_deliveries(run_id=parcel.run_id, states=_OWED) if row.id in parcel.owed]
    current = next((row for row in rows if row.id == parcel.ident), None)
    if current is None or current.sends != parcel.sends:
        return False
    in_charge = _in_charge(store, current)
    if in_charge is not None and not _same(in_charge, identity) and _alive(in_charge):
        return False
    ids = [row.id for row in rows]
    if time.time() - current.created_at > keep_seconds:
        store.expire_deliveries(ids, actor=_actor(identity))
        return False
    store.mark_sent(ids, actor=_actor(identity))
    return True


def _settle(store: "RunStore", run_id: str) -> None:
    rows = store.list_deliveries(run_id=run_id, states=_OWED)
    store.acknowledge([row.id for row in rows if row.state is DeliveryState.SENT], actor="host")


# --- which process is in charge of a hand-over -------------------------------------------------


def _in_charge(store: "RunStore", row: DeliveryRecord) -> Owner | None:
    """The process that handed it over last, else the one whose chat asked for the run."""
    if row.sends:
        after = 0
        found: Owner | None = None
        while events := store.tail(row.run_id, after_seq=after):
            after = events[-1].seq
            for event in events:
                if event.type == "delivery.sent":
                    found = _owner(event.actor.removeprefix("host:")) or found
        if found is not None:
            return found
    return _owner(row.parent.route.get("process", ""))


def process_text(identity: Owner) -> str:
    """A process as it stands in a parent's route and in the events of a hand-over."""
    return f"{identity.pid}/{identity.started!r}/{identity.boot_id}"


def _actor(identity: Owner) -> str:
    return f"host:{process_text(identity)}"


def _owner(text: str) -> Owner | None:
    parts = text.split("/")
    try:
        pid, started, boot_id = parts
        return Owner(pid=int(pid), started=float(started), boot_id=boot_id)
    except ValueError:
        return None


def _same(one: Owner, other: Owner) -> bool:
    return one == other


def _alive(owner: Owner) -> bool:
    from crew_plugin.store.liveness import owner_alive

    return owner_alive(owner)


def alive_owner(text: str) -> Owner | None:
    """The process that a route or an event names, if it still runs."""
    owner = _owner(text)
    return owner if owner is not None and _alive(owner) else None
