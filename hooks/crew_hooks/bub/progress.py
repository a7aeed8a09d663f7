"""Lines in the chat that tell what the runs of the chat do."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from crew_plugin.errors import CrewError, Forgotten
from crew_plugin.models.records import EventRecord, ParentRef
from crew_plugin.store.follow import others

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.store.port import RunStore
    from crew_plugin.ui.shapes import TaskName

__all__ = ["Progress"]

_PAUSE: Final = 0.1
"""Lines that come together are printed together: each print redraws the prompt."""
_AT_ONCE: Final = 40
"""More lines than this in one print say nothing to a person; the rest is counted."""
_LOOKED_AT: Final = 50
_LOST_LINES: Final = 3
_ENDED: Final = ("run.completed", "run.failed", "run.cancelled")


@dataclass(frozen=True, slots=True)
class _Run:
    parent: ParentRef | None
    """None for a run whose lines nobody in a chat of this process waits for."""
    names: Mapping[str, "TaskName"]


class Progress:
    """Prints what waiting tool calls tell, and what the background runs of this process do."""

    def __init__(
        self,
        crew: "Crew",
        *,
        show: Callable[[ParentRef, Sequence[str]], Awaitable[None]],
        report: Callable[[str], None],
    ) -> None:
        self._crew = crew
        self._show = show
        self._report = report
        self._lines: list[tuple[ParentRef, str]] = []
        self._events: list[EventRecord] = []
        self._some = anyio.Event()
        self._printing = anyio.Lock()
        """Keeps lines in order between the pump and a tool call that ends."""
        self._runs: dict[str, _Run] = {}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Print while the body runs."""
        unsubscribe = self._crew.writer.subscribe(self._saw)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._pump)
                group.start_soon(self._watch_others)
                yield
                group.cancel_scope.cancel()
        finally:
            unsubscribe()

    async def _watch_others(self) -> None:
        """See what supervisors of their own do for the chats of this process."""
        async for event in others(self._crew.writer):
            self._saw(event)

    def line(self, parent: ParentRef, text: str) -> None:
        """Print a line soon."""
        self._lines.append((parent, text))
        self._some.set()

    async def session_opened(self, session: str) -> None:
        """Tell of runs of this session whose process has died: nobody else would."""
        for parent, line in await self._crew.writer.read(lambda store: _lost(store, session)):
            self.line(parent, line)

    async def flush(self) -> None:
        """Print what is there now; returns when it stands on the screen."""
        async with self._printing:
            lines, self._lines = self._lines, []
            by_chat: dict[tuple[str, str], tuple[ParentRef, list[str]]] = {}
            for parent, line in lines:
                chat = by_chat.setdefault((parent.session, parent.route.get("channel", "")), (parent, []))
                chat[1].append(line)
            for parent, texts in by_chat.values():
                await self._show(parent, _bounded(texts))

    def _saw(self, event: EventRecord) -> None:
        self._events.append(event)
        self._some.set()

    async def _pump(self) -> None:
        while True:
            await self._some.wait()
            await anyio.sleep(_PAUSE)
            self._some = anyio.Event()
            try:
                await self._read_events()
            except CrewError as error:
                self._report(f"what runs do cannot be shown: {error}")
            await self.flush()

    async def _read_events(self) -> None:
        from crew_plugin.ui.events import event_line

        events, self._events = self._events, []
        for event in events:
            try:
                run = await self._run_of(event)
            except Forgotten:
                # Somebody deleted the run before its events were told.
                continue
            if run.parent is not None and (line := event_line(event, run.names)):
                self._lines.append((run.parent, line))
            if event.type in _ENDED:
                self._runs.pop(event.run_id, None)

    async def _run_of(self, event: EventRecord) -> _Run:
        known = self._runs.get(event.run_id)
        if known is None:
            known = await self._crew.writer.read(lambda store: _look_up(store, event.run_id))
            self._runs[event.run_id] = known
        return known


def _bounded(lines: Sequence[str]) -> Sequence[str]:
    if len(lines) <= _AT_ONCE:
        return lines
    return [f"({len(lines) - _AT_ONCE} more lines)", *lines[-_AT_ONCE:]]


def _lost(store: "RunStore", session: str) -> list[tuple[ParentRef, str]]:
    from crew_plugin.models.states import RUN_TERMINAL, RunState
    from crew_plugin.ui.views import LOST, run_rows

    active = tuple(state for state in RunState if state not in RUN_TERMINAL)
    asked = ParentRef(host="bub", session=session)
    rows = run_rows(store, states=active, limit=_LOOKED_AT, parent=asked)
    lost = [row.id for row in rows if row.shown_state == LOST]
    lines = [
        f"run {ident} was lost with its process; ,team resume {ident} goes on with it, "
        f",team cancel {ident} closes it"
        for ident in lost
    ]
    if len(lines) > _LOST_LINES:
        lines[_LOST_LINES:] = [f"and {len(lines) - _LOST_LINES} more; ,team list run shows them"]
    return [(store.load_run(lost[0]).parent or asked, line) for line in lines]


def _look_up(store: "RunStore", run_id: str) -> _Run:
    from crew_hooks.bub.delivery import process_text
    from crew_plugin.store.liveness import current_owner
    from crew_plugin.ui.views import task_names

    run = store.load_run(run_id)
    me = current_owner()
    mine = run.owner == me or (run.parent is not None and run.parent.route.get("process") == process_text(me))
    # A waiting tool call tells of its run itself, and a chat of another process of its own.
    return _Run(run.parent if run.background and mine else None, task_names(store, run_id))
