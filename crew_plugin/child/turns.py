"""Whose request is next, across processes: the provider gates are the supervisor's, workers ask there.

`FarGates` is the worker's side, `Turns` the supervisor's. What a worker holds is given back when it is gone,
however it ended.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from crew_plugin.child import protocol
from crew_plugin.engine.provider_gate import (
    Place,
    ProviderGate,
    ProviderGates,
    Refused,
    Standing,
    Urgency,
    Verdict,
    gate_name,
)
from crew_plugin.errors import EngineError

__all__ = ["FarGates", "Turns"]


# --- in the supervisor ---------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Turn:
    """One model call of a worker: its place at a gate of this process."""

    number: int
    gate: ProviderGate
    place: Place
    losses: int
    waiting: anyio.CancelScope | None = None


class Turns:
    """The model calls of one worker at the gates of its supervisor."""

    def __init__(self, gates: ProviderGates, send: Callable[[protocol.Message], None]) -> None:
        self._gates = gates
        self._send = send
        self._turns: dict[int, _Turn] = {}

    def joined(self, asked: protocol.Acquire) -> _Turn:
        """The turn of a call that wants to make its request; `wait` for it."""
        turn = self._turns.get(asked.place)
        if turn is None:
            gate = self._gates.named(asked.gate)
            place = gate.place(Urgency(asked.urgency))
            turn = self._turns[asked.place] = _Turn(asked.place, gate, place, asked.losses)
        if turn.waiting is not None or turn.place.held:
            raise protocol.ProtocolError(f"the model call {asked.place} asks twice")
        turn.waiting = anyio.CancelScope()
        return turn

    async def wait(self, turn: _Turn) -> None:
        """Tell the worker when the call may make its request, and meanwhile how many go first."""
        scope = turn.waiting
        assert scope is not None

        def queued(ahead: int) -> None:
            self._send(protocol.Queued(place=turn.number, ahead=ahead))

        try:
            with scope:
                await turn.gate.acquire(turn.place, queued, losses=turn.losses)
        except EngineError as error:
            self._refusing(turn, str(error))
            return
        finally:
            turn.waiting = None
        if not scope.cancel_called:
            self._send(protocol.Granted(place=turn.number))
        elif turn.place.held:  # let through and withdrawn at the same time
            turn.gate.release(turn.place, Verdict.FAILED)

    def release(self, ended: protocol.Release) -> None:
        """A request ended, or the worker does not want to make it any more."""
        turn = self._turns.get(ended.place)
        if turn is None:
            return
        if turn.waiting is not None:
            turn.waiting.cancel()
            del self._turns[ended.place]
        elif ended.outcome == "refused":
            self._end(turn, Refused(ended.wish))
            self._refusing(turn)
        else:
            self._end(turn, Verdict(ended.outcome))
            if ended.outcome == "served":
                del self._turns[ended.place]

    def give_back(self) -> None:
        """The worker is gone: nobody waits any more, and what it held is free."""
        for turn in self._turns.values():
            self._end(turn, Verdict.FAILED)
        self._turns.clear()

    def _end(self, turn: _Turn, verdict: Verdict | Refused) -> None:
        if turn.place.held:
            turn.gate.release(turn.place, verdict)

    def _refusing(self, turn: _Turn, error: str | None = None) -> None:
        standing = turn.gate.stands(turn.place)
        self._send(
            protocol.Refusing(place=turn.number, pause=standing.pause, losses=standing.losses, error=error)
        )


# --- in the worker -------------------------------------------------------------------------


class FarGates:
    """Implements `RequestGates` over the connection to the supervisor."""

    def __init__(self, send: Callable[[protocol.Message], None]) -> None:
        self._send = send
        self._made = 0
        self._waiting: dict[int, tuple[asyncio.Future[None], Callable[[int], None]]] = {}
        self._refused: dict[int, asyncio.Future[Standing]] = {}
        self._gone = False

    def gate(self, provider: str, base: str | None, credential: str | None) -> "_FarGate":
        """The one gate for requests to this provider with this credential."""
        return _FarGate(gate_name(provider, base, credential), self)

    def told(self, message: protocol.AtGate) -> None:
        """What the supervisor says of a call."""
        called = self._waiting.get(message.place)
        match message:
            case protocol.Queued(ahead=ahead):
                if called is not None:
                    called[1](ahead)
            case protocol.Granted():
                if called is not None and not called[0].done():
                    called[0].set_result(None)
            case protocol.Refusing(error=None):
                refused = self._refused.get(message.place)
                if refused is not None and not refused.done():
                    refused.set_result(Standing(pause=message.pause, losses=message.losses))
            case protocol.Refusing():
                if called is not None and not called[0].done():
                    called[0].set_exception(
                        EngineError(
                            "rate_limit", str(message.error), retryable=True, retry_after=message.pause
                        )
                    )

    def lost(self) -> None:
        """The supervisor is gone: nobody is let through any more."""
        self._gone = True
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_exception(_alone())
        for refused in self._refused.values():
            if not refused.done():
                refused.set_result(Standing(pause=0.0, losses=0))

    def number(self) -> int:
        """The number of a new call."""
        self._made += 1
        return self._made

    async def acquire(self, asked: protocol.Acquire, waiting: Callable[[int], None]) -> None:
        """Ask for the turn of a call, and wait for it."""
        if self._gone:
            raise _alone()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[asked.place] = (answer, waiting)
        self._send(asked)
        try:
            await answer
        except asyncio.CancelledError:
            self._send(protocol.Release(place=asked.place, outcome="failed"))
            raise
        finally:
            del self._waiting[asked.place]

    def release(self, ended: protocol.Release) -> None:
        """Tell how a request ended."""
        self._send(ended)
        if ended.outcome == "refused" and not self._gone:
            self._refused[ended.place] = asyncio.get_running_loop().create_future()

    async def standing(self, number: int) -> Standing:
        """What the supervisor told of the refusal of this call."""
        refused = self._refused.get(number)
        if refused is None:
            return Standing(pause=0.0, losses=0)
        try:
            return await refused
        finally:
            del self._refused[number]


@dataclass(frozen=True, slots=True)
class _FarGate:
    """Implements `RequestGate`: the gate itself is in the supervisor."""

    name: str
    gates: FarGates

    def place(self, urgency: Urgency = Urgency.ORDINARY) -> Place:
        """A place for a new model call; the supervisor has the real one."""
        return Place(order=self.gates.number(), urgency=urgency, losses=0)

    async def acquire(self, place: Place, waiting: Callable[[int], None], *, losses: int) -> None:
        """Return when the request may be made. What was acquired must be released."""
        await self.gates.acquire(
            protocol.Acquire(place=place.order, gate=self.name, urgency=place.urgency.value, losses=losses),
            waiting,
        )

    def release(self, place: Place, verdict: Verdict | Refused) -> None:
        """The request ended."""
        if isinstance(verdict, Refused):
            ended = protocol.Release(place=place.order, outcome="refused", wish=verdict.wish)
        else:
            ended = protocol.Release(place=place.order, outcome=verdict.value)
        self.gates.release(ended)

    async def standing(self, place: Place) -> Standing:
        """How it stands with a call whose request was refused last."""
        return await self.gates.standing(place.order)


def _alone() -> EngineError:
    return EngineError("unknown", "the supervisor is gone", retryable=False)
