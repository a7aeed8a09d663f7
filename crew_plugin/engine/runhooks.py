"""The crew's own hooks for one run: asked and told, and every call of them written down."""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.abc

from crew_plugin.engine.cancel import cause_of_request
from crew_plugin.engine.hooks import Answer, Asking, HookName, Hooks, Telling
from crew_plugin.engine.retry import keys_in
from crew_plugin.errors import StaleView
from crew_plugin.hookspecs import Cancelling, Retrying, SessionClosed, SessionOpened
from crew_plugin.models.records import ControlRecord, ControlVerb, EventRecord, Lease, TaskRecord
from crew_plugin.store.writer import StoreWriter

__all__ = ["RunHooks"]

ANSWER_SECONDS: Final = 3.0
"""How long a request to cancel or to retry may be held up: whoever asked waits for an answer."""

logger = logging.getLogger(__name__)


class RunHooks:
    """Whoever implements hooks, as one run meets them.

    Watchers are told in a group of their own: the run goes on meanwhile, and its end waits for
    them no longer than each of them may take.
    """

    def __init__(self, hooks: Hooks, writer: StoreWriter, run_id: str) -> None:
        self._hooks = hooks
        self._writer = writer
        self._run_id = run_id
        self._lease: Lease | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._held: set[str] = set()
        """Requests that hooks have been asked about."""

    @asynccontextmanager
    async def listening(self, lease: Lease) -> AsyncGenerator[None]:
        """Tell watchers what happens, for as long as the block lasts."""
        self._lease = lease
        async with anyio.create_task_group() as group:
            self._group = group
            stop = self._hear_of_sessions(group)
            try:
                yield
            finally:
                stop()
                self._group = None

    def decides(self, name: HookName) -> bool:
        """Whether somebody is to be asked."""
        return self._hooks.decides(name)

    async def ask(self, name: HookName, event: Asking) -> Answer:
        """What the deciding implementations say. The calls are in the answer, to be written down
        with what comes of it. Watchers are told meanwhile."""
        self.tell(name, event)
        return await self._hooks.ask(name, event)

    def tell(self, name: HookName, event: Telling) -> None:
        """Let watchers know, soon."""
        if self._group is not None and self._hooks.watched(name):
            self._group.start_soon(self._tell, name, event)

    async def tell_last(self, name: HookName, event: Telling) -> None:
        """Let watchers know, once everything before was told."""
        if self._hooks.watched(name):
            await self._tell(name, event)

    # --- what others ask ---

    def hold(
        self,
        control: ControlRecord,
        tasks: Mapping[str, TaskRecord],
        then: Callable[[ControlRecord], Awaitable[object]],
    ) -> bool:
        """Whether this request waits for hooks; `then` is called with it if they allow it. The
        next request does not wait meanwhile."""
        asks = self._asks(control, tasks)
        if asks is None:
            return False
        name, event = asks
        if not self.decides(name):
            if control.id not in self._held:
                self._held.add(control.id)
                self.tell(name, event)
            return False
        # Before the group is open the request stays where it is written down, and is found again.
        if self._group is not None and control.id not in self._held:
            self._held.add(control.id)
            self._group.start_soon(self._ask_first, control, name, event, then)
        return True

    def _asks(
        self, control: ControlRecord, tasks: Mapping[str, TaskRecord]
    ) -> tuple[HookName, Cancelling | Retrying] | None:
        """Which hook has a say in this request, and what it is told."""
        if control.verb is ControlVerb.RETRY:
            return "before_retry", Retrying(run_id=self._run_id, keys=keys_in(control), actor=control.actor)
        if control.verb is not ControlVerb.CANCEL or control.payload.get("force"):
            return None
        task = next((task for task in tasks.values() if task.id == control.task_id), None)
        return "before_cancel", Cancelling(
            run_id=self._run_id,
            task_id=control.task_id,
            key=None if task is None else task.key,
            actor=control.actor,
            reason=cause_of_request(control).message,
        )

    async def _ask_first(
        self,
        control: ControlRecord,
        name: HookName,
        event: Cancelling | Retrying,
        then: Callable[[ControlRecord], Awaitable[object]],
    ) -> None:
        self.tell(name, event)
        answer = await self._hooks.ask(name, event, most=ANSWER_SECONDS)
        await self._note(answer)
        if answer.refusal is None:
            try:
                await then(control)
            except StaleView:
                logger.debug("the run had ended before its hooks allowed the request")
            return
        lease, reason = self._lease, answer.refusal.message
        assert lease is not None
        try:
            await self._writer.run(
                lambda store: store.answer_control(lease, control.id, refused=reason, actor="supervisor")
            )
        except StaleView:
            logger.debug("the run had ended before a hook refused the request")

    # --- telling ---

    def _hear_of_sessions(self, group: anyio.abc.TaskGroup) -> Callable[[], None]:
        """Tell of sessions that are opened and left, where somebody watches. Returns what ends that;
        what was seen before is still told."""
        names: tuple[HookName, ...] = ("session_connected", "session_disconnected")
        if not any(self._hooks.watched(name) for name in names):
            return lambda: None
        sender, receiver = anyio.create_memory_object_stream[tuple[HookName, Telling]](math.inf)

        def saw(event: EventRecord) -> None:
            # Not called by a task: nothing can be started here.
            told = self._of_session(event)
            if told is not None:
                sender.send_nowait(told)

        async def tell_all() -> None:
            with receiver:
                async for name, event in receiver:
                    if self._hooks.watched(name):
                        group.start_soon(self._tell, name, event)

        group.start_soon(tell_all)
        unsubscribe = self._writer.subscribe(saw)

        def stop() -> None:
            unsubscribe()
            sender.close()

        return stop

    def _of_session(self, event: EventRecord) -> tuple[HookName, Telling] | None:
        """What a written event says of a session of this run."""
        if event.run_id != self._run_id:
            return None
        key = event.actor if event.task_id is not None else None
        if event.type == "session.opened":
            opened = SessionOpened(
                run_id=event.run_id,
                task_id=event.task_id,
                key=key,
                attempt_id=event.attempt_id,
                kind=str(event.data.get("kind")),
                agent=str(event.data.get("agent")),
                model=event.data.get("model"),
            )
            return "session_connected", opened
        if event.type == "session.closed":
            closed = SessionClosed(
                run_id=event.run_id, task_id=event.task_id, key=key, attempt_id=event.attempt_id
            )
            return "session_disconnected", closed
        return None

    async def _tell(self, name: HookName, event: Telling) -> None:
        await self._note(Answer(events=await self._hooks.tell(name, event)))

    async def _note(self, answer: Answer) -> None:
        lease, run_id = self._lease, self._run_id
        try:
            await self._writer.run(lambda store: store.append_events(lease, run_id, answer.events))
        except StaleView:
            logger.debug("a call of a hook could not be noted: run %s has another owner", run_id)
