"""One gate per provider and credential: how many requests may be under way, and whose turn it is.

A provider that limits one session limits all of them, so what one hears all obey: a pause it asks
for holds for every session, and each wave of refusals halves how many requests may be under way.
Answers let the number grow again, one at a time. The gate is held for one request, never for a
conversation.
"""

import hashlib
import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final, Protocol
from urllib.parse import urlsplit

import anyio

from crew_plugin.errors import EngineError

__all__ = [
    "AT_ONCE",
    "LONGEST_PAUSE",
    "SIGN_SECONDS",
    "USUAL_CEILING",
    "USUAL_START",
    "Flow",
    "Place",
    "ProviderGate",
    "ProviderGates",
    "Refused",
    "RequestGate",
    "RequestGates",
    "Standing",
    "Urgency",
    "Verdict",
    "gate_name",
]

USUAL_START: Final = 128
USUAL_CEILING: Final = 1024
LONGEST_PAUSE: Final = 120.0
"""A provider that asks for more makes its callers fail; the others try again after this long."""
AT_ONCE: Final = -1
"""As `losses`: the call is let through now or not at all."""
SIGN_SECONDS: Final = 5.0
"""How often a wait tells that it goes on."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_OWN_PAUSE: Final = 30.0
_PAUSE_JITTER: Final = 0.1
_LEAST_JITTER: Final = 0.02
_MOST_PATIENCE: Final = 64


class Urgency(IntEnum):
    """Who goes first. Among equals, whoever came first."""

    ORDINARY = 0
    LATE = 1
    """Has used much of what it may use: what it has done would be lost with it."""
    LAST = 2
    """Only its result is missing."""


class Verdict(Enum):
    """How a request ended."""

    SERVED = "served"
    FAILED = "failed"
    """It says nothing about how much the provider takes: broken off, cancelled, a bad request."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider has too much to do; `wish` is the pause it asked for, in seconds."""

    wish: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a refused call is told."""

    pause: float
    """Seconds until anybody is let through."""
    losses: int
    """How many waves in a row were lost since the call came."""


@dataclass(slots=True, eq=False)
class Place:
    """The place of one model call in the queue, kept while its request is made again."""

    order: int
    urgency: Urgency
    losses: int
    """Waves that the gate had lost when the call came."""
    held: bool = False
    waiting: bool = False
    wave: int = 0
    """The wave in which its request was let through."""
    beside: int = 0
    """How many were under way then, with it."""
    called: anyio.Event | None = None
    """Set when the gate has news for it."""

    def __lt__(self, other: "Place") -> bool:
        return (-self.urgency, self.order) < (-other.urgency, other.order)


class Flow:
    """Decides which calls may make their request now. Knows no clock and waits for nothing.

    A wave is what was let through since the last refusal: its first refusal halves the width, the
    others of the same wave tell nothing new. A wave is lost for everybody if nothing is
    answered between it and the next one.
    """

    def __init__(self, start: int, ceiling: int, *, jitter: Callable[[], float] = random.random) -> None:
        self.ceiling = max(1, ceiling)
        self.width = min(max(1, start), self.ceiling)
        self.held = 0
        self.opens_at = 0.0
        """Until then nobody is let through."""
        self._jitter = jitter
        self._queue: list[Place] = []
        self._survivors: dict[int, int] = {}
        """Requests under way by their wave."""
        self._order = 0
        self._wave = 0
        self._losses = 0
        self._losses_forgiven = 0
        self._answers = 0
        self._patience = 1
        self._grown = False
        self._tight = self.ceiling + 1

    def place(self, urgency: Urgency = Urgency.ORDINARY) -> Place:
        """A place for a new call, behind all others of its urgency."""
        self._order += 1
        return Place(order=self._order, urgency=urgency, losses=self._losses)

    def join(self, place: Place) -> None:
        """Wait for the turn."""
        place.waiting = True
        heapq.heappush(self._queue, place)

    def quit(self, place: Place) -> None:
        """Wait no longer."""
        place.waiting = False

    def admit(self, now: float) -> list[Place]:
        """Let through whoever may go now, in order."""
        admitted: list[Place] = []
        while now >= self.opens_at and self.held < self.width and self.head() is not None:
            place = heapq.heappop(self._queue)
            place.waiting, place.held, place.wave = False, True, self._wave
            self._survivors[self._wave] = self._survivors.get(self._wave, 0) + 1
            self.held += 1
            place.beside = self.held
            admitted.append(place)
        return admitted

    def head(self) -> Place | None:
        """Who is next; None if nobody waits."""
        while self._queue and not self._queue[0].waiting:
            heapq.heappop(self._queue)
        return self._queue[0] if self._queue else None

    def waiting(self) -> list[Place]:
        """All who wait, in no order."""
        return [place for place in self._queue if place.waiting]

    def ahead(self, place: Place) -> int:
        """How many calls go first: those that wait before it and those under way."""
        return self.held + sum(other.waiting and other < place for other in self._queue)

    def losses(self, place: Place) -> int:
        """How many waves in a row were lost since the call came. Zero while others are answered."""
        return self._losses - max(place.losses, self._losses_forgiven)

    def end(self, place: Place, verdict: Verdict | Refused, now: float) -> None:
        """Take back what the request held, and learn from how it ended."""
        used = self.held >= self.width
        held, self.held = self.held, self.held - 1
        place.held = False
        self._survivors[place.wave] -= 1
        if not self._survivors[place.wave]:
            del self._survivors[place.wave]
        if isinstance(verdict, Refused):
            if place.wave == self._wave:
                self._narrow(max(held, place.beside))
            self._pause(verdict.wish, now)
        elif verdict is Verdict.SERVED:
            self._losses_forgiven = self._losses
            if used:
                self._widen()

    def _narrow(self, used: int) -> None:
        if not any(wave < self._wave for wave in self._survivors):
            self._losses += 1
        self._wave += 1
        if self._grown:
            self._patience = min(_MOST_PATIENCE, self._patience * 2)
        self._tight = min(self.width, used)
        self.width = max(1, self._tight // 2)
        self._grown, self._answers = False, 0

    def _widen(self) -> None:
        self._answers += 1
        if self.width < self.ceiling and self._answers >= self.width * self._patience:
            self.width += 1
            self._grown, self._answers = True, 0
            if self.width > self._tight:
                # What was too much is so no longer: what was learned about it is forgotten.
                self._patience, self._tight = 1, self.ceiling + 1

    def _pause(self, wish: float | None, now: float) -> None:
        if wish is None:
            waves = max(1, self._losses - self._losses_forgiven)
            pause = min(_LONGEST_OWN_PAUSE, _FIRST_PAUSE * 2.0 ** (waves - 1))
            pause *= 0.5 + 0.5 * self._jitter()
        else:
            pause = min(wish, LONGEST_PAUSE)
            pause += _LEAST_JITTER + _PAUSE_JITTER * self._jitter() * max(pause, _FIRST_PAUSE)
        self.opens_at = max(self.opens_at, now + pause)


class RequestGate(Protocol):
    """A gate as a model call sees it: in this process, or in the one that supervises it."""

    @property
    def name(self) -> str: ...

    def place(self, urgency: Urgency = Urgency.ORDINARY) -> Place:
        """A place for a new model call. It keeps it when its request has to be made again."""
        ...

    async def acquire(self, place: Place, waiting: Callable[[int], None], *, losses: int) -> None:
        """Return when the request may be made. What was acquired must be released.

        `waiting` is told at once, and again every few seconds, how many go first. Raises
        `EngineError` once more than `losses` waves in a row were lost since the call came: a
        provider that takes nobody's request is not asked again by everyone in turn. With `AT_ONCE`
        it is raised, and `waiting` not told, if the request may not be made now; `retry_after` is
        zero if there is no pause, only others who are served first. Such a place waits for nothing:
        to wait, a call takes another one.
        """
        ...

    def release(self, place: Place, verdict: Verdict | Refused) -> None:
        """The request ended."""
        ...

    async def standing(self, place: Place) -> Standing:
        """How it stands with a call whose request was refused last."""
        ...


class RequestGates(Protocol):
    """The gates of whoever makes model calls."""

    def gate(self, provider: str, base: str | None, credential: str | None) -> RequestGate:
        """The one gate for requests to this provider with this credential."""
        ...


class ProviderGate:
    """Implements `RequestGate`: tasks of this process wait at it. Every wait can be cancelled."""

    def __init__(self, name: str, flow: Flow, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.flow = flow
        self._clock = clock

    def place(self, urgency: Urgency = Urgency.ORDINARY) -> Place:
        """A place for a new model call. It keeps it when its request has to be made again."""
        return self.flow.place(urgency)

    def pause(self) -> float:
        """Seconds until anybody is let through; zero if there is no pause."""
        return max(0.0, self.flow.opens_at - self._clock())

    async def standing(self, place: Place) -> Standing:
        """How it stands with a call whose request was refused last."""
        return self.stands(place)

    def stands(self, place: Place) -> Standing:
        """The same, at once."""
        return Standing(pause=self.pause(), losses=self.flow.losses(place))

    async def acquire(self, place: Place, waiting: Callable[[int], None], *, losses: int) -> None:
        """Return when the request may be made. What was acquired must be released."""
        self.flow.join(place)
        self._admit()
        try:
            while not place.held:
                self._check(place, losses)
                waiting(self.flow.ahead(place))
                with anyio.move_on_after(SIGN_SECONDS):
                    await self._news(place, losses)
        except BaseException:
            if place.held:  # let through and cancelled at the same time
                self.release(place, Verdict.FAILED)
            else:
                self.flow.quit(place)
                self._admit()
            raise

    def _check(self, place: Place, losses: int) -> None:
        lost = self.flow.losses(place)
        if lost > losses:
            raise EngineError(
                "rate_limit",
                f"the model provider {self.name} refused every request, {lost} times in a row",
                retryable=True,
                retry_after=self.pause(),
            )

    async def _news(self, place: Place, losses: int) -> None:
        while not place.held and self.flow.losses(place) <= losses:
            place.called = anyio.Event()
            # Every one of them watches for the end of a pause: whoever did it alone might be cancelled.
            with anyio.move_on_after(self.pause() or None):
                await place.called.wait()
            self._admit()

    def release(self, place: Place, verdict: Verdict | Refused) -> None:
        """The request ended: let others through, and tell those who wait of a new pause."""
        self.flow.end(place, verdict, self._clock())
        self._admit()
        if isinstance(verdict, Refused):
            for other in self.flow.waiting():
                _call(other)

    def _admit(self) -> None:
        for place in self.flow.admit(self._clock()):
            _call(place)


def _call(place: Place) -> None:
    if place.called is not None:
        place.called.set()


def gate_name(provider: str, base: str | None, credential: str | None) -> str:
    """The name of the gate for requests to this provider with this credential: with a digest of the
    credential, so that it can be logged and sent."""
    host = urlsplit(base).netloc.rpartition("@")[2] if base else "usual"
    digest = hashlib.sha256(f"{base}\0{credential}".encode()).hexdigest()[:8]
    return f"{provider}@{host}#{digest}"


@dataclass(slots=True)
class ProviderGates:
    """Implements `RequestGates`: the gates of one process and of the workers that it supervises."""

    start: int
    ceiling: int
    _gates: dict[str, ProviderGate] = field(default_factory=dict[str, ProviderGate])

    def gate(self, provider: str, base: str | None, credential: str | None) -> ProviderGate:
        """The one gate for requests to this provider with this credential."""
        return self.named(gate_name(provider, base, credential))

    def named(self, name: str) -> ProviderGate:
        """The one gate of this name."""
        if name not in self._gates:
            self._gates[name] = ProviderGate(name, Flow(self.start, self.ceiling))
        return self._gates[name]
