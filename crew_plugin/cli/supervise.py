"""Runs a plan in this process, from loading the host to the last line on the screen."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

import anyio

from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place, program
from crew_plugin.cli.screen import Screen, console_on, is_terminal, screen_on
from crew_plugin.errors import CrewError
from crew_plugin.hosting import load_checkup, load_host, need_model
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ArtifactRef
from crew_plugin.models.states import RunState
from crew_plugin.ui.receipts import letters
from crew_plugin.ui.shapes import TaskName
from crew_plugin.ui.text import answers_text, artifacts_text, status_text
from crew_plugin.ui.views import (
    DRY_RUN,
    RunView,
    mail_to_people,
    result_views,
    run_document,
    run_view,
    task_names,
)

if TYPE_CHECKING:
    from crew_plugin.config import Settings
    from crew_plugin.crew import Crew
    from crew_plugin.engine.takeover import TakeOver
    from crew_plugin.models.spec import RunSpec
    from crew_plugin.project import Project
    from crew_plugin.resources import Catalog
    from crew_plugin.store.port import RunStore

__all__ = ["Ending", "Errand", "supervise"]

ACTOR: Final = "operator"
_SHOWN: Final = 16_000
_LISTED: Final = 12
_KILL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended, and what is to be said about it."""

    code: Exit
    run_id: str | None
    text: str
    document: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What to run, where, and how to show it."""

    place: Place
    project: "Project"
    settings: "Settings"
    plan: "Callable[[Catalog], RunSpec] | None" = None
    """Makes a new run."""
    adopts: "tuple[str, TakeOver] | None" = None
    """Or goes on with this one."""
    asks_model: bool
    """False for a dry run, which needs no model."""
    json: bool
    quiet: bool
    begin: "Callable[[Crew], Awaitable[str]] | None" = None
    """Gives the run that is to go on, in place of a new one."""


def supervise(errand: Errand) -> int:
    """Run it, show it, say how it ended; returns the exit code."""
    with screen_on(errand.place.logs(), quiet=errand.quiet) as screen, _Interrupts(screen) as interrupts:
        ending = anyio.run(_supervise, errand, screen, interrupts, backend="asyncio")
    if errand.json:
        print_json(ending.document)
    else:
        print(ending.text)
    return ending.code


async def _supervise(errand: Errand, screen: Screen, interrupts: "_Interrupts") -> Ending:
    for warning in errand.settings.warnings:
        screen.say(f"warning: {warning}")
    screen.say("loading the host ...")
    with anyio.CancelScope() as scope:
        interrupts.on_first = _from_signal(scope.cancel)
        if errand.asks_model:
            need_model(load_checkup().report())
        host_crew = load_host()
        async with host_crew(errand.project, errand.settings) as crew:
            for warning in crew.hooks.warnings() if crew.hooks else ():
                screen.say(f"warning: {warning}")
            run_id = await _begun(errand, crew)
            interrupts.closing = f"{program()} cancel {run_id}{errand.place.options()}"
            await _drive(crew, run_id, screen, interrupts)
            tell = _ending if errand.asks_model else _dry_ending
            return await crew.writer.read(lambda store: tell(store, run_id, errand.place))
    return Ending(
        code=Exit.CANCELLED,
        run_id=None,
        text="cancelled before the run began; nothing was started",
        document={"error": {"kind": "Cancelled", "message": "cancelled before the run began"}},
    )


async def _begun(errand: Errand, crew: "Crew") -> str:
    """The run of this errand: a new one, or one that was written down before."""
    if errand.begin is not None:
        return await errand.begin(crew)
    if errand.adopts is not None:
        return (await crew.supervisor.adopt(*errand.adopts)).id
    assert errand.plan is not None
    spec = errand.plan(await crew.catalog())
    return (await crew.supervisor.submit(spec, parent=None, background=False, actor=ACTOR)).id


async def _drive(crew: "Crew", run_id: str, screen: Screen, interrupts: "_Interrupts") -> None:
    stop = anyio.Event()
    interrupts.on_first = _from_signal(stop.set)

    async def cancel() -> None:
        await stop.wait()
        screen.notice("cancelling; finished results are kept (Ctrl-C again stops at once)")
        # Whoever stops the process that owns the run does not ask its hooks.
        await crew.supervisor.cancel(run_id, cause=interrupts.cause(), actor=ACTOR, force=True)

    failure: CrewError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(screen.follow, crew, run_id)
        group.start_soon(cancel)
        try:
            await crew.supervisor.execute(run_id)
        except CrewError as error:
            failure = error  # raised below, by itself instead of in a group
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    await screen.finish(crew, run_id)


def _ending(store: "RunStore", run_id: str, place: Place) -> Ending:
    view = run_view(store, run_id)
    code = {RunState.COMPLETED: Exit.OK, RunState.CANCELLED: Exit.CANCELLED}.get(view.row.state, Exit.FAILED)
    crew, where = program(), place.options()
    told = next((task.key for task in view.tasks if task.session_id), view.tasks[0].key)
    refs = sorted(store.list_artifacts(run_id), key=lambda ref: ref.name)
    results = result_views(store, run_id)
    kept = (
        "" if code is Exit.OK else f"\n{len(results)} of {len(view.tasks)} results were finished and are kept"
    )
    parts = [
        *_to_decide(view, f"{crew} resume {run_id}", where),
        answers_text(view, results, limit=_SHOWN),
        *letters(mail_to_people(store, run_id)),
        _tree(view) + kept,
        _artifacts(refs, place, task_names(store, run_id)),
        f"next:\n  {crew} show {run_id}{where}\n  {crew} show {run_id} {told} --transcript{where}\n"
        f"  {crew} events {run_id}{where}",
    ]
    return Ending(
        code=code,
        run_id=run_id,
        text="\n\n".join(parts),
        document=run_document(store, view, view.tasks),
    )


def _to_decide(view: RunView, resume: str, where: str) -> list[str]:
    """What keeps the run from going on, and what to type."""
    held = [task for task in view.tasks if task.hold is not None]
    if not held:
        return []
    lines = [f"  {task.key}: {task.hold}" for task in held]
    example = ",".join(f"{task.key}=continue" for task in held)
    return [
        "the run waits for a decision about tasks that were cut off:\n"
        + "\n".join(lines)
        + f"\ndecide (continue, restart or fail): {resume} --decide {example}{where}"
    ]


def _dry_ending(store: "RunStore", run_id: str, place: Place) -> Ending:
    """A dry run is a success when every prompt was written, though no task can have completed."""
    view = run_view(store, run_id)
    written = [task for task in view.tasks if task.shown_state == DRY_RUN]
    if len(written) < len(view.tasks):
        return _ending(store, run_id, place)
    where = place.options()
    return Ending(
        code=Exit.OK,
        run_id=run_id,
        text=f"dry run {run_id}: {_prompts(len(written))} written, no model was asked\nnext:\n"
        + "\n".join(f"  {program()} show {run_id} {task.key} --prompt{where}" for task in written[:_LISTED]),
        document=run_document(store, view, view.tasks),
    )


def _prompts(count: int) -> str:
    return "1 prompt was" if count == 1 else f"{count} prompts were"


def _artifacts(refs: Sequence[ArtifactRef], place: Place, names: Mapping[str, TaskName]) -> str:
    more = f"\n{len(refs) - _LISTED} more" if len(refs) > _LISTED else ""
    head = f"artifacts, kept in {place.find().state_dir}; read one with {program()} show --artifact HASH"
    return f"{head}{place.options()}:\n{artifacts_text(refs[:_LISTED], names)}{more}"


def _tree(view: RunView) -> str:
    """The last picture of the tree on a terminal, the plain status elsewhere."""
    if not is_terminal(sys.stdout):
        return status_text(view)
    from crew_plugin.ui.live import RunTree

    console = console_on(sys.stdout)
    with console.capture() as capture:
        console.print(RunTree(view, now=time.time()))
    return capture.get().rstrip("\n")


# --- Ctrl-C --------------------------------------------------------------------------------


class _Interrupts:
    """Asks to stop at the first signal, and stops the process at the second, whatever it is doing.

    Plain signal handlers: they also run while a host is being imported on the event loop.
    """

    def __init__(self, screen: Screen) -> None:
        self.on_first: Callable[[], None] = _interrupt
        self.closing: str | None = None
        """The command that closes the run if this process stops at once; None while there is none."""
        self._screen = screen
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def cause(self) -> Cause:
        """Why the run is cancelled."""
        if self._received[0] == signal.SIGINT:
            return Cause(code=CauseCode.CALLER_CANCELLED, message="cancelled with Ctrl-C")
        name = signal.Signals(self._received[0]).name
        return Cause(code=CauseCode.SHUTDOWN, message=f"its process was told to end ({name})")

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(number)
        if len(self._received) == 1:
            self.on_first()
        elif number == signal.SIGINT or self._received.count(number) > 1:
            _stop_now(self._screen, self.closing)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _from_signal(call: Callable[[], None]) -> Callable[[], None]:
    """`call` on the running loop's next turn, safe to use in a signal handler."""
    loop = asyncio.get_running_loop()

    def later() -> None:
        loop.call_soon_threadsafe(call)

    return later


def _stop_now(screen: Screen, closing: str | None) -> None:
    """End this process and every process it started, without waiting for anything."""
    from crew_plugin.engine.orphans import end_started

    left = end_started(grace=_KILL_SECONDS)
    screen.release()
    ended = f"{len(left)} processes ended"
    if closing is None:
        screen.warn(f"stopped at once, before the run began; {ended}")
    else:
        screen.warn(
            f"stopped at once; {ended}. What was finished is kept; "
            f"the run is shown as lost until you close it:\n  {closing}"
        )
    screen.settle()
    os._exit(Exit.CANCELLED)
