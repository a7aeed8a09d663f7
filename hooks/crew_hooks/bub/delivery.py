"""What a background run owes its parent reaches it once, whatever dies in between.

What is due of a group of runs is handed to its parent session as one message, a parcel, that carries a
delivery id. Once that id stands in a user message of the session's saved tape, everything in the parcel is
acknowledged; until then it is handed over again, but never while an earlier parcel of the group is still on
its way. The order is: look at the tape, write down what is sent in which parcel, hand it over.
"""

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from crew_plugin.models.records import (
    DeliveryRecord,
    DeliveryState,
    EventRecord,
    NewEvent,
    Owner,
    ParentRef,
)
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.observe.owed import OWED, Group, JoinPolicy, group_of, join_policy
from crew_plugin.store.follow import others

if TYPE_CHECKING:
    from bub.channels.message import ChannelMessage

    from crew_plugin.crew import Crew
    from crew_plugin.store.port import RunStore

__all__ = ["Delivery", "Parcel", "alive_owner", "delivery_ids", "process_text"]

_TOKEN: Final = re.compile(r"^\[crew delivery (\S+?)\]", re.MULTILINE)
"""At the start of a line, where no words of a worker can stand: those begin with `| `."""
_NEWS: Final = frozenset(
    {"task.completed", "run.supervisor_lost", *(f"run.{state}" for state in RUN_TERMINAL)}
)
"""Events after which more of a group may be due."""
_SOON_SECONDS: Final = 0.5
_SLACK_SECONDS: Final = 0.05
"""A deadline is looked at this much after it, so that one look is enough."""


def delivery_ids(text: str) -> tuple[str, ...]:
    """The ids of the deliveries that a message carries."""
    return tuple(dict.fromkeys(_TOKEN.findall(text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What is due of a group, as one message."""

    ident: str
    """The delivery id that stands in the text and is looked for on the tape."""
    rows: tuple[DeliveryRecord, ...]
    """Everything that the message settles."""
    parent: ParentRef
    text: str


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
        self._policy = join_policy(crew.settings)
        self._todo: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._due: dict[str, float] = {}
        """When to look at a group again, by one of its runs, on the loop's clock."""
        self._held: dict[str, float] = {}
        """What was said about how long a group is held, by one of its runs."""
        self._on_the_way: WeakValueDictionary[str, ChannelMessage] = WeakValueDictionary()
        """Handed to Bub and not yet part of a turn. An entry is gone when Bub dropped the message."""
        self._in_a_turn: set[str] = set()
        """Parcels that a turn has taken and not ended with."""
        self._runs: dict[str, frozenset[str]] = {}
        """The runs that each parcel of this process tells of."""

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
        if event.type == "task.completed" and self._policy.how != "off":
            self._look_soon(event.run_id)
        elif event.type in _NEWS:
            self._look_at(event.run_id)

    def _look_soon(self, run_id: str) -> None:
        """What is joined is in no hurry: of a hundred tasks that end together one look tells."""
        at = asyncio.get_running_loop().time() + _SOON_SECONDS
        if self._due.get(run_id, math.inf) > at:
            self._due[run_id] = at
            self._todo.put_nowait("")

    def _look_at(self, run_id: str) -> None:
        if run_id not in self._queued:
            self._queued.add(run_id)
            self._todo.put_nowait(run_id)

    # --- what the hooks of the parent tell ---

    async def session_opened(self, session_id: str) -> None:
        """A session of the project was seen for the first time in this process."""
        for run_id in await self._crew.writer.read(lambda store: _owed_runs(store, session_id)):
            self._look_at(run_id)

    def taken(self, idents: Iterable[str]) -> None:
        """A turn has made these deliveries part of a prompt."""
        for ident in idents:
            self._on_the_way.pop(ident, None)
            if ident in self._runs:
                self._in_a_turn.add(ident)

    async def turn_ended(self, session_id: str, idents: Sequence[str], *, opened_by: Sequence[str]) -> None:
        """A turn that had taken these deliveries is over and its tape is saved.

        `opened_by` are those that were the turn's own prompt: if that turn failed, starting it
        again at once would fail again, so they wait for the session's next turn.
        """
        mine = [ident for ident in idents if ident in self._in_a_turn]
        saved = await self._on_tape(session_id, mine) if mine else frozenset[str]()
        failed: set[str] = set()
        for ident in mine:
            self._in_a_turn.discard(ident)
            if ident not in saved and ident in opened_by:
                failed |= self._runs[ident]
        if saved:
            await self._acknowledge(saved)
        # Whatever else is owed, also what Bub was given and dropped: what is on its way is left alone.
        for run_id in await self._crew.writer.read(lambda store: _owed_runs(store, session_id)):
            if run_id not in failed:
                self._look_at(run_id)

    # --- handing over ---

    async def _pump(self) -> None:
        while True:
            run_id = await self._next()
            self._queued.discard(run_id)
            try:
                await self._hand_over(run_id)
            except Exception as error:  # noqa: BLE001 - told in the log; the other results are still owed
                self._report(f"the result of run {run_id} could not be handed over: {error}")

    async def _next(self) -> str:
        """The next run whose group is to be looked at: because of an event, or at its deadline."""
        loop = asyncio.get_running_loop()
        while True:
            first = min(self._due, key=self._due.__getitem__, default=None)
            wait = None if first is None else max(0.0, self._due[first] - loop.time())
            try:
                async with asyncio.timeout(wait):
                    run_id = await self._todo.get()
                if run_id:
                    return run_id
            except TimeoutError:
                if first is not None and loop.time() >= self._due[first]:
                    del self._due[first]
                    return first

    async def _hand_over(self, run_id: str) -> None:
        now = time.time()
        group = await self._crew.writer.read(lambda store: _group(store, run_id, self._policy, now))
        if group is None or any(self._under_way(ident) for ident in group.sent):
            return
        if not group.due:
            await self._hold(group, now)
            return
        seen = (
            await self._on_tape(group.parent.session, sorted(group.sent)) if group.sent else frozenset[str]()
        )
        if seen:
            await self._acknowledge(seen)
            self._look_at(run_id)
            return
        self._due.pop(group.runs[0].id, None)
        parcel = await self._crew.writer.read(lambda store: _parcel(store, group))
        keep = self._crew.settings.delivery.keep_hours * 3600
        claimed = await self._crew.writer.run(
            lambda store: _claim(store, parcel, identity=self._identity, keep_seconds=keep)
        )
        if claimed is None:
            self._look_at(run_id)
        if not claimed:
            return
        self._runs[parcel.ident] = frozenset(row.run_id for row in parcel.rows)
        message = await self._send(parcel.parent, parcel.text)
        if message is not None:
            self._on_the_way[parcel.ident] = message

    async def _hold(self, group: Group, now: float) -> None:
        """What there is waits for the rest, and somebody says until when."""
        if group.until is None:
            return
        ident, loop = group.runs[0].id, asyncio.get_running_loop()
        # A clock that was set back does not make it longer.
        longest = max(self._policy.first_seconds, self._policy.longest_seconds)
        self._due[ident] = loop.time() + min(max(0.0, group.until - now), longest) + _SLACK_SECONDS
        if self._held.get(ident) != group.until:
            self._held[ident] = group.until
            await self._crew.writer.run(lambda store: _say_held(store, group, self._identity))

    def _under_way(self, ident: str) -> bool:
        return ident in self._on_the_way or ident in self._in_a_turn

    async def _acknowledge(self, idents: Collection[str]) -> None:
        await self._crew.writer.run(lambda store: _settle(store, idents))


# --- against the store: each of these is one transaction ---------------------------------------


def _owed_runs(store: "RunStore", session_id: str) -> tuple[str, ...]:
    rows = store.list_deliveries(states=OWED)
    return tuple(
        dict.fromkeys(row.run_id for row in rows if row.parent.host == "bub" and _opens_here(row, session_id))
    )


def _opens_here(row: DeliveryRecord, session_id: str) -> bool:
    """A terminal shows one session; other channels reach all of theirs at any time."""
    return row.parent.session == session_id or row.parent.route.get("channel") != "cli"


def _group(store: "RunStore", run_id: str, policy: JoinPolicy, now: float) -> Group | None:
    group = group_of(store, run_id, policy, now=now)
    return group if group is not None and group.parent.host == "bub" else None


def _parcel(store: "RunStore", group: Group) -> Parcel:
    from crew_tools.team.handover import handover_text

    # The row for a run's end; without one (a run closed by hand, or that goes on) the last that is due.
    last = next((row for row in reversed(group.due) if row.task_id is None), group.due[-1])
    return Parcel(
        ident=last.id,
        rows=group.due,
        parent=last.parent,
        text=f"[crew delivery {last.id}] {handover_text(store, group)}",
    )


def _claim(store: "RunStore", parcel: Parcel, *, identity: Owner, keep_seconds: float) -> bool | None:
    """Take the hand-over for this process, unless it is somebody else's or too late; None where
    something changed meanwhile and it has to be looked at again."""
    owed = {row.id: row for row in store.list_deliveries(states=OWED)}
    if any(owed.get(row.id) != row for row in parcel.rows):
        return None
    if not _mine(store, parcel.rows, identity):
        return False
    ids = [row.id for row in parcel.rows]
    if time.time() - max(row.created_at for row in parcel.rows) > keep_seconds:
        store.expire_deliveries(ids, actor=_actor(identity))
        return False
    store.mark_sent(ids, actor=_actor(identity), parcel=parcel.ident)
    return True


def _settle(store: "RunStore", idents: Collection[str]) -> None:
    rows = store.list_deliveries(states=(DeliveryState.SENT,))
    store.acknowledge([row.id for row in rows if (row.parcel or row.id) in idents], actor="host")


def _say_held(store: "RunStore", group: Group, identity: Owner) -> None:
    if not _mine(store, group.held, identity):
        return
    data = {"until": group.until, "results": len(group.held), "open": [run.id for run in group.open]}
    event = NewEvent(type="delivery.held", actor=_actor(identity), data=data)
    store.append_events(None, group.held[0].run_id, [event])


# --- which process is in charge of a hand-over -------------------------------------------------


def _mine(store: "RunStore", rows: Iterable[DeliveryRecord], identity: Owner) -> bool:
    """Whether no other process that lives is in charge of any of these."""
    charged: dict[tuple[str, bool], DeliveryRecord] = {(row.run_id, bool(row.sends)): row for row in rows}
    found = (_in_charge(store, row) for row in charged.values())
    return all(one is None or _same(one, identity) or not _alive(one) for one in found)


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
