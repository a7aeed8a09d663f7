"""What is seen of a run while it goes on: a live tree, lines, or nothing.

A host's libraries log to standard error whenever they like. So while a host is loaded, standard
error is a log file, and the screen writes to what standard error was. A person may stop a terminal, or
close it: pictures that cannot be written are not drawn, and the run goes on.
"""

import os
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, cast

import anyio

from crew_plugin.cli.pen import Pen
from crew_plugin.errors import CrewError, StateUnwritable
from crew_plugin.models.records import EventRecord
from crew_plugin.ui.events import event_line
from crew_plugin.ui.shapes import TaskName
from crew_plugin.ui.text import printable
from crew_plugin.ui.views import RunView, run_view, task_names

if TYPE_CHECKING:
    from rich.console import Console

    from crew_plugin.crew import Crew

__all__ = ["Screen", "console_on", "is_terminal", "screen_on", "stderr_into"]

_TICK: Final = 0.1
_LOGS_KEPT: Final = 20
_SETTLE_SECONDS: Final = 1.0


class Screen:
    """Standard error as the person sees it, and how a run is drawn on it."""

    def __init__(self, stream: TextIO, *, quiet: bool, log: Path) -> None:
        self.log = log
        self._pen = Pen(stream)
        self._quiet = quiet
        self._live = not quiet and is_terminal(stream)
        self._notice = ""
        self._said = 0
        self._names: Mapping[str, TaskName] = {}

    def say(self, text: str) -> None:
        """One line for the person, unless they asked for quiet."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """One line that is said in any case."""
        self._pen.write(f"{printable(text)}\n")

    def notice(self, text: str) -> None:
        """What the live tree says below the tasks from now on; a line elsewhere."""
        self._notice = text
        if not self._live:
            self.warn(text)

    def release(self) -> None:
        """Give a terminal its cursor back when there is no time to leave the live tree."""
        if self._live:
            self._pen.write("\x1b[?25h\n")

    def settle(self) -> None:
        """Wait until everything stands on the screen, or for a moment if nobody reads it."""
        self._pen.settle(_SETTLE_SECONDS)

    async def follow(self, crew: "Crew", run_id: str) -> None:
        """Draw a run of this process until cancelled. The run goes on where it cannot be drawn."""
        try:
            if self._live and not self._quiet:
                await self._draw(crew, run_id)
            elif not self._quiet:
                await self._list(crew, run_id)
        except (CrewError, OSError) as error:
            self.warn(f"the run goes on, but cannot be shown: {error}")
        await anyio.sleep_forever()

    async def finish(self, crew: "Crew", run_id: str) -> None:
        """Say what `follow` had no time to say."""
        if not self._quiet and not self._live:
            await self._say_new(crew, run_id)

    async def _list(self, crew: "Crew", run_id: str) -> None:
        some = anyio.Event()

        def saw(_event: EventRecord) -> None:
            some.set()

        unsubscribe = crew.writer.subscribe(saw)
        try:
            while True:
                if not await self._say_new(crew, run_id):
                    await some.wait()
                    some = anyio.Event()
        finally:
            unsubscribe()

    async def _say_new(self, crew: "Crew", run_id: str) -> bool:
        """Say what happened since the last time; whether there was anything."""
        after = self._said
        events = await crew.writer.read(lambda store: store.tail(run_id, after_seq=after))
        if any(event.task_id and event.task_id not in self._names for event in events):
            self._names = await crew.writer.read(lambda store: task_names(store, run_id))
        for event in events:
            self._said = event.seq
            line = event_line(event, self._names)
            if line is not None:
                self.say(line)
        return bool(events)

    async def _draw(self, crew: "Crew", run_id: str) -> None:
        from crew_plugin.ui.live import Doing, RunTree, live_display

        console = console_on(cast("TextIO", self._pen))  # all of it that rich uses
        doing = Doing()
        changed = True

        def saw(event: EventRecord) -> None:
            nonlocal changed
            if event.run_id == run_id:
                doing.note(event)
                changed = True

        unsubscribe = crew.writer.subscribe(saw)
        view: RunView | None = None
        tick = 0
        try:
            with live_display(console) as live:
                while True:
                    if changed or view is None:
                        changed = False
                        view = await crew.writer.read(lambda store: run_view(store, run_id))
                    tree = RunTree(
                        view,
                        doing={task.id: doing.text(task.id) for task in view.tasks},
                        now=time.time(),
                        tick=tick,
                        footer=self._notice or "Ctrl-C cancels; finished results are kept",
                        max_lines=max(3, console.height - 4),
                    )
                    if self._pen.idle:
                        live.update(tree, refresh=True)
                    tick += 1
                    await anyio.sleep(_TICK)
        finally:
            unsubscribe()


@contextmanager
def screen_on(logs: Path, *, quiet: bool) -> Generator[Screen]:
    """A screen on standard error, which is a log file in this folder until the end."""
    with suppress(OSError):
        for old in sorted(logs.glob("host-*.log"))[: -_LOGS_KEPT + 1]:
            old.unlink(missing_ok=True)
    log = logs / f"host-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with stderr_into(log) as stream:
        screen = Screen(stream, quiet=quiet, log=log)
        try:
            yield screen
        finally:
            screen.settle()


@contextmanager
def stderr_into(log: Path) -> Generator[TextIO]:
    """Make standard error this file, also for child processes; yields what it was before.

    Raises `StateUnwritable`.
    """
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise StateUnwritable(log, error.strerror or str(error)) from error
    sys.stderr.flush()
    kept = os.dup(2)
    with open(kept, "w", encoding=sys.stderr.encoding, errors="replace", buffering=1) as stream:
        os.dup2(handle, 2)
        os.close(handle)
        try:
            yield stream
        finally:
            try:
                sys.stderr.flush()
            except OSError:
                # The disk is full. What the log does not take is not for the person to see.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                sys.stderr.flush()
            os.dup2(kept, 2)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it with a terminal that can redraw."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return stream.isatty() and not plain


def console_on(stream: TextIO) -> "Console":
    """A rich console that takes every text literally."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)
