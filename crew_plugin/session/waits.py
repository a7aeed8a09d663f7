"""Sessions that wait for an answer of a peer: who waits for whom, and what ends a wait.

A wait is kept here, outside of the conversations it connects: it ends by the answer, by its
deadline, by any other text for the waiting session, and by the end of whoever is waited for.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import anyio

from crew_plugin.models.mail import MessageKind, MessageRecord

__all__ = ["Wait", "Waited", "Waits"]

_ANSWERS = frozenset({MessageKind.MESSAGE, MessageKind.RELAY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """What a wait brought: answers, or why there is none."""

    answers: tuple[MessageRecord, ...] = ()
    reason: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Wait:
    """One session that waits for the first answer of any of these peers."""

    run_id: str
    key: str
    peers: set[str]
    answers: list[MessageRecord] = field(default_factory=list[MessageRecord])
    reason: str = ""
    over: anyio.Event = field(default_factory=anyio.Event)

    def takes(self, message: MessageRecord) -> bool:
        """Whether this message is an answer that the wait is for; it has it then."""
        if self.over.is_set() or message.kind not in _ANSWERS or message.sender not in self.peers:
            return False
        self.answers.append(message)
        self.over.set()
        return True

    def end(self, reason: str) -> None:
        """There is something else to do than to wait. The first reason counts."""
        if not self.over.is_set():
            self.reason = reason
            self.over.set()

    def gone(self, peer: str, reason: str) -> None:
        """A peer will not answer any more."""
        if peer in self.peers:
            self.peers.discard(peer)
            if not self.peers:
                self.end(f"{peer} will not answer: {reason}")


class Waits:
    """All waits of one process."""

    def __init__(self) -> None:
        self._waits: dict[tuple[str, str], Wait] = {}

    def begin(self, wait: Wait) -> None:
        """Somebody waits."""
        self._waits[wait.run_id, wait.key] = wait

    def done(self, wait: Wait) -> None:
        """It waits no longer."""
        if self._waits.get((wait.run_id, wait.key)) is wait:
            del self._waits[wait.run_id, wait.key]

    def ended(self, run_id: str, key: str, reason: str) -> None:
        """The session of this task is over: nobody needs to wait for it."""
        for wait in list(self._waits.values()):
            if wait.run_id == run_id:
                wait.gone(key, reason)

    def circle(self, run_id: str, key: str, peers: Iterable[str]) -> tuple[str, ...]:
        """Who would wait for this session while it waits for them: all of `peers`, if none of
        them could answer before this session does; else nobody."""
        names = tuple(peers)

        def stuck(name: str, seen: frozenset[str]) -> bool:
            wait = self._waits.get((run_id, name))
            if wait is None or not wait.peers or wait.over.is_set():
                return False
            return all(peer == key or peer in seen or stuck(peer, seen | {peer}) for peer in wait.peers)

        return names if names and all(stuck(name, frozenset({name})) for name in names) else ()
