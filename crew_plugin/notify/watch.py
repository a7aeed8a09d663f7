"""Sees what background runs do, in this process and in others, and tells the person once."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crew_plugin.errors import CrewError
from crew_plugin.models.records import EventRecord, RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.notify.notice import ENDED, LOST, Notice, find_notice
from crew_plugin.notify.ways import IN_TERMINAL, run_program, terminal_text
from crew_plugin.store.follow import others

if TYPE_CHECKING:
    from crew_plugin.config.settings import Settings
    from crew_plugin.project import Project
    from crew_plugin.store.port import RunStore
    from crew_plugin.store.writer import StoreWriter

__all__ = ["Terminal", "notifying", "tell_now"]

_ENDS: Final = frozenset(f"run.{state}" for state in RUN_TERMINAL)
_LOST: Final = frozenset({"run.supervisor_lost", "run.supervisor_ended"})
_LAST_SECONDS: Final = 25.0
"""How long what is still to be told may hold up the end of the process."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """The terminal of a chat in this process."""

    shows: Callable[[RunRecord], bool]
    """Whether the conversation that asked for a run is the one in it."""
    write: Callable[[str], None]


@asynccontextmanager
async def notifying(
    writer: "StoreWriter", settings: "Settings", terminal: Terminal | None
) -> AsyncGenerator[None]:
    """Tell while the body runs, as the settings say; on leaving, what happened before is still told."""
    import anyio

    how = settings.notify.how
    if how == "off" or (how in IN_TERMINAL and terminal is None):
        yield
        return
    give, take = anyio.create_memory_object_stream[tuple[str, str]](float("inf"))
    watching = anyio.CancelScope()

    def saw(event: EventRecord) -> None:
        what = _what(event)
        if what is not None:
            give.send_nowait((event.run_id, what))

    async def watch() -> None:
        with watching:
            async for event in others(writer):
                saw(event)

    async def tell() -> None:
        async with take:
            async for run_id, what in take:
                try:
                    await _tell(writer, settings, terminal, run_id, what)
                except (CrewError, OSError) as error:
                    _say_problem(str(error), run_id)

    unsubscribe = writer.subscribe(saw)
    async with anyio.create_task_group() as group:
        group.start_soon(tell)
        group.start_soon(watch)
        try:
            yield
        finally:
            unsubscribe()
            watching.cancel()
            give.close()
            group.cancel_scope.deadline = anyio.current_time() + _LAST_SECONDS


def tell_now(store: "RunStore", project: "Project", run_id: str, what: str = ENDED) -> None:
    """Tell of a run outside of any crew, where the settings name a program for it. Blocks; what goes
    wrong is only logged, because it changes nothing about the run."""
    from crew_plugin.config import load_settings

    try:
        settings = load_settings(project.root)
        if settings.notify.how in ("desktop", "command"):
            notice = _take(store, run_id, what, settings, None)
            _say_problem(run_program(notice, settings) if notice is not None else None, run_id)
    except (CrewError, OSError) as error:
        _say_problem(str(error), run_id)


async def _tell(
    writer: "StoreWriter", settings: "Settings", terminal: Terminal | None, run_id: str, what: str
) -> None:
    import anyio.to_thread

    notice = await writer.run(lambda store: _take(store, run_id, what, settings, terminal))
    if notice is None:
        return
    how = settings.notify.how
    if how not in IN_TERMINAL:
        _say_problem(await anyio.to_thread.run_sync(run_program, notice, settings), run_id)
    elif terminal is not None:
        terminal.write(terminal_text(how, notice))


def _take(
    store: "RunStore", run_id: str, what: str, settings: "Settings", terminal: Terminal | None
) -> Notice | None:
    """What this process is to tell; nobody else does from then on."""
    how = settings.notify.how
    notice = find_notice(store, run_id, what, settings.notify.when)
    if notice is None or (how in IN_TERMINAL and (terminal is None or not terminal.shows(notice.run))):
        return None
    return notice if store.claim_notice(run_id, notice.about, how=how, actor="crew") else None


def _what(event: EventRecord) -> str | None:
    if event.type in _ENDS:
        return ENDED
    if event.type in _LOST:
        return LOST
    ident = event.data.get("question_id") if event.type == "task.waiting" else None
    return None if ident is None else str(ident)


def _say_problem(problem: str | None, run_id: str) -> None:
    if problem is not None:
        logger.warning("nobody could be told of run %s: %s", run_id, problem)
