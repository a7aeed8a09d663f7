"""The store for event loops: one writing thread and one reading thread of a process.

Writes that wait together share one transaction and are answered after the commit. If one fails
after it wrote something, all of them are done once more, each in a savepoint of its own. The loop
hands operations over and is told of their end; it never waits for a lock or a disk.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from crew_plugin.errors import CrewError
from crew_plugin.models.records import EventRecord
from crew_plugin.project import Project
from crew_plugin.store.log import CHATTY_EVENTS
from crew_plugin.store.port import RunStore
from crew_plugin.store.sqlite import SqliteStore

__all__ = ["StoreWriter", "Subscriber"]

Subscriber = Callable[[EventRecord], None]

_LARGEST_GROUP = 128
"""Operations per transaction, so that other processes get their turn."""

_PATIENT_ONES = 8
"""Of them such as let others pass."""

_NAP = 0.001
"""Between two looks at a thread that is about to end, in seconds."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """Something to be done with the store, and who waits for it."""

    work: Callable[[RunStore], Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    patient: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    """How an operation ended."""

    operation: _Operation
    value: Any = None
    error: BaseException | None = None

    def give(self) -> None:
        """Tell who waits, if anybody still does."""
        if self.operation.answer.done():
            return
        if self.error is None:
            self.operation.answer.set_result(self.value)
        else:
            self.operation.answer.set_exception(self.error)


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    """Who wants to hear of events, and on which loop."""

    callback: Subscriber
    loop: asyncio.AbstractEventLoop


class StoreWriter:
    """A project's store, awaited. Touches no file and starts no thread before its first use.

    The threads belong to the `async with` block: leaving it finishes what was handed over,
    closes both connections and joins them.
    """

    def __init__(self, project: Project, *, chatty_events: int = CHATTY_EVENTS) -> None:
        """Of one run, `chatty_events` events of the kinds that say how things go are kept."""
        self.project = project
        self._chatty_events = chatty_events
        self._subscriptions: tuple[_Subscription, ...] = ()
        self._open = False
        self._writing = _Lane("crew-store-writer", self._commit)
        self._reading = _Lane("crew-store-reader", self._look)
        self._store: SqliteStore | None = None
        self._view: SqliteStore | None = None

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        await _finish(self._writing, self._reading)

    async def run[T](self, work: Callable[[RunStore], T], *, patient: bool = False) -> T:
        """Do `work` on the writing thread; returns once it is committed. With `patient` it lets
        pass what others bring later, so that many such operations hold nobody up. `work` may be
        done twice, and only the second time count: it must change nothing but the store.

        It happens even if the caller is cancelled while it waits. What it raises undoes it alone.

        Raises:
            StateUnwritable: the disk refused it; nothing of it was written.
        """
        return await self._hand_over(self._writing, work, patient=patient)

    async def read[T](self, work: Callable[[RunStore], T]) -> T:
        """Do `work` on the reading thread, on one unchanging view of the store."""
        return await self._hand_over(self._reading, work, patient=False)

    async def apart[T](self, work: Callable[[RunStore], T]) -> T:
        """Do `work`, once, in a thread and with a store of its own, in whatever transactions it makes
        itself: for what takes long, or changes more than the store."""
        import anyio.to_thread

        def do() -> T:
            store = SqliteStore.open(self.project)
            try:
                return work(store)
            finally:
                store.close()

        return await anyio.to_thread.run_sync(do)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Have `callback` called on this event loop for every event that this process commits.
        Returns what ends that."""
        subscription = _Subscription(callback, asyncio.get_running_loop())
        self._subscriptions = (*self._subscriptions, subscription)

        def unsubscribe() -> None:
            self._subscriptions = tuple(each for each in self._subscriptions if each is not subscription)

        return unsubscribe

    async def _hand_over[T](self, lane: "_Lane", work: Callable[[RunStore], T], *, patient: bool) -> T:
        if not self._open:
            raise CrewError("the store is used outside of its `async with` block")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        lane.put(_Operation(work, answer, loop, patient))
        return await answer

    # --- on the writing thread ---

    def _commit(self, group: list[_Operation] | None) -> None:
        """One transaction for all that waits together; None closes the store."""
        if group is None:
            if self._store is not None:
                self._store.close()
                self._store = None
            return
        while group:
            answers: list[_Answer] = []
            events: list[EventRecord] = []
            try:
                store = self._writable()
                try:
                    with store.transaction():
                        answers = _do(store, group)
                except _Spoiled:
                    # Savepoints cost a fifth of all statements, so they are made when they are needed.
                    with store.transaction():
                        answers = _do_apart(store, group)
                events = store.take_fresh_events()
            except BaseException as error:  # noqa: BLE001 - handed to everybody whose work was not kept
                # The commit itself failed, or the store cannot be opened.
                answers = [_Answer(done.operation, error=done.error or error) for done in answers] or [
                    _Answer(operation, error=error) for operation in group
                ]
            group = group[len(answers) :]
            self._deliver(answers, events)

    def _writable(self) -> SqliteStore:
        if self._store is None:
            self._store = SqliteStore.open(self.project)
            self._store.chatty_events = self._chatty_events
        return self._store

    def _deliver(self, answers: list[_Answer], events: list[EventRecord]) -> None:
        """One call to each loop: first the events, then the answers."""
        subscriptions = self._subscriptions if events else ()
        loops = {each.loop for each in subscriptions} | {each.operation.loop for each in answers}
        for loop in loops:
            hearing = [each.callback for each in subscriptions if each.loop is loop]
            waiting = [each for each in answers if each.operation.loop is loop]
            try:
                loop.call_soon_threadsafe(_arrive, loop, hearing, events, waiting)
            except RuntimeError:
                # The loop is closed: what was committed stays, and nobody is left to be told.
                continue

    # --- on the reading thread ---

    def _look(self, group: list[_Operation] | None) -> None:
        """Each in a transaction of its own, so that all it reads is of one moment."""
        if group is None:
            if self._view is not None:
                self._view.close()
                self._view = None
            return
        for operation in group:
            try:
                view = self._readable()
                with view.transaction():
                    answer = _Answer(operation, value=operation.work(view))
            except BaseException as error:  # noqa: BLE001 - handed to the caller who caused it
                answer = _Answer(operation, error=error)
            self._deliver([answer], [])

    def _readable(self) -> SqliteStore:
        """The kept view, or a passing empty one while there is no store to keep a view of."""
        if self._view is None or self._view.missing:
            if self._view is not None:
                self._view.close()
            self._view = SqliteStore.open(self.project, read_only=True)
        return self._view


class _Spoiled(Exception):
    """An operation failed after it had written something, which must be undone alone."""


class _Lane:
    """One thread and the queue of what it has to do."""

    def __init__(self, name: str, work: Callable[[list[_Operation] | None], None]) -> None:
        self._name = name
        self._work = work
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._patient: deque[_Operation] = deque()
        self._thread: threading.Thread | None = None

    def put(self, operation: _Operation) -> None:
        """Hand an operation over, starting the thread if this is the first."""
        self._queue.put(operation)
        if self._thread is None:
            # A daemon, so that a program which never left the block can still end.
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Have the thread end once it has finished what it was given."""
        if self._thread is not None:
            self._queue.put(None)

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread is not None and self._thread.is_alive()

    def forget(self) -> None:
        """Let go of a thread that has ended."""
        self._thread = None

    def _serve(self) -> None:
        last = False
        while not last or self._patient:
            group: list[_Operation] = []
            while len(group) < _LARGEST_GROUP and not last:
                try:
                    operation = self._queue.get(block=not group and not self._patient)
                except queue.Empty:
                    break
                if operation is None:
                    last = True
                elif operation.patient:
                    self._patient.append(operation)
                else:
                    group.append(operation)
            group += [self._patient.popleft() for _ in range(min(_PATIENT_ONES, len(self._patient)))]
            self._work(group)
        self._work(None)


def _do(store: SqliteStore, group: list[_Operation]) -> list[_Answer]:
    """Do the operations of a group. Raises what the one that spoiled the transaction raised."""
    if len(group) == 1:
        # The transaction around it undoes it as well as a savepoint would.
        return [_Answer(group[0], value=group[0].work(store))]
    answers: list[_Answer] = []
    for operation in group:
        before = store.total_changes
        try:
            answers.append(_Answer(operation, value=operation.work(store)))
        except BaseException as error:
            if store.total_changes != before or not store.in_transaction:
                raise _Spoiled from error
            answers.append(_Answer(operation, error=error))
        if store.spoiled:
            raise _Spoiled
    return answers


def _do_apart(store: SqliteStore, group: list[_Operation]) -> list[_Answer]:
    """Do the operations of a group, each in a savepoint of its own, up to one after which SQLite
    gave the transaction up."""
    answers: list[_Answer] = []
    for operation in group:
        try:
            with store.transaction():
                value = operation.work(store)
            answers.append(_Answer(operation, value=value))
        except BaseException as error:  # noqa: BLE001 - handed to the caller who caused it
            answers.append(_Answer(operation, error=error))
        if not store.in_transaction:
            break
    return answers


def _arrive(
    loop: asyncio.AbstractEventLoop,
    hearing: list[Subscriber],
    events: list[EventRecord],
    answers: list[_Answer],
) -> None:
    for event in events:
        for callback in hearing:
            try:
                callback(event)
            except Exception as error:  # noqa: BLE001 - handed to the loop's owner; others still hear
                loop.call_exception_handler(
                    {"message": "a subscriber to the crew's events failed", "exception": error}
                )
    for answer in answers:
        answer.give()


async def _finish(*lanes: _Lane) -> None:
    """Wait until the threads have ended, however often the waiting task is cancelled. Joining them
    would block the loop, be it for a moment."""
    import anyio

    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        for lane in lanes:
            lane.end()
        while any(lane.alive for lane in lanes):
            try:
                await anyio.sleep(_NAP)
            except asyncio.CancelledError as error:
                cancelled = error
    for lane in lanes:
        lane.forget()
    if cancelled is not None:
        raise cancelled
