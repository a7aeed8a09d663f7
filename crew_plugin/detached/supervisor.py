"""A supervisor without a terminal: `python -m crew_plugin.detached.supervisor ROOT STATE_DIR RUN`.

It claims its run before it loads anything heavy, and renews the lease from a thread until the host is
there: loading one takes seconds, in which the run belongs to somebody and can be cancelled.

Told to end (SIGTERM), it ends what its sessions run and leaves the run as it is: to be resumed. Whoever
wants the run cancelled asks for that.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final, TextIO, cast

from crew_plugin.detached.log import BoundedLog, CleanStream
from crew_plugin.engine.cancel import cause_of_request
from crew_plugin.engine.orphans import end_started
from crew_plugin.engine.settle import close_run
from crew_plugin.errors import CrewError, Fenced, StateUnwritable
from crew_plugin.models.causes import Cause
from crew_plugin.models.records import ControlVerb, Lease
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.project import Project
from crew_plugin.redact import Redactor
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore

__all__ = ["main"]

_ACTOR: Final = "supervisor"
_LOOK_SECONDS: Final = 0.05
_RENEW_EVERY: Final = 20
_END_SECONDS: Final = 3.0
"""How long processes of sessions may take to end when the supervisor is told to."""


def main(root: str, state_dir: str, run_id: str) -> int:
    """Claim the run, load the host, drive it to its end."""
    redactor = Redactor(os.environ)
    sys.stdout = cast(TextIO, CleanStream(sys.stdout, redactor))
    sys.stderr = cast(TextIO, CleanStream(sys.stderr, redactor))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave)
    project = Project(root=Path(root), state_dir=Path(state_dir))
    try:
        with contextlib.closing(SqliteStore.open(project)) as store:
            lease = store.claim(run_id, current_owner())
    except CrewError as error:
        print(f"run {run_id} could not be claimed: {error}", file=sys.stderr)
        return 1
    keeper = _Keeper(project, lease)
    try:
        return _drive(project, lease, keeper)
    except BaseException as error:
        keeper.stop()
        _give_up(project, lease, error)
        raise


def _drive(project: Project, lease: Lease, keeper: "_Keeper") -> int:
    import anyio

    from crew_plugin.config import load_settings
    from crew_plugin.engine.takeover import TakeOver
    from crew_plugin.hosting import load_checkup, load_host, need_model
    from crew_plugin.models.states import SessionKind

    settings = load_settings(project.root)
    with contextlib.closing(SqliteStore.open(project, read_only=True)) as store:
        if store.load_run(lease.run_id).runtime is not SessionKind.SCAFFOLD:
            need_model(load_checkup().report())
    host_crew = load_host()

    async def drive() -> None:
        async with host_crew(project, settings) as crew:
            await crew.supervisor.adopt(lease.run_id, TakeOver(lease=lease))
            keeper.stop()
            run = await crew.supervisor.execute(lease.run_id)
            print(f"run {run.id} {run.state}", flush=True)

    with BoundedLog(project.log_of(lease.run_id), settings.keep.log_kb * 1000):
        anyio.run(drive, backend="asyncio")
    return 0


class _Keeper:
    """Renews the lease and looks for a cancellation, in a thread, until the driver does both."""

    def __init__(self, project: Project, lease: Lease) -> None:
        self._project = project
        self._lease = lease
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="crew-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave it to the driver."""
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        looks = 0
        while not self._over.wait(_LOOK_SECONDS):
            looks += 1
            try:
                self._look(renews=looks % _RENEW_EVERY == 0)
            except Fenced:
                return  # the driver finds out by itself
            except CrewError as error:
                # A store that is busy for a moment must not cost the lease.
                print(f"the lease could not be renewed: {error}", file=sys.stderr, flush=True)

    def _look(self, *, renews: bool) -> None:
        with contextlib.closing(SqliteStore.open(self._project)) as store:
            if renews:
                store.renew(self._lease)
            for control in store.pending_controls(self._lease.run_id):
                if control.verb is ControlVerb.CANCEL and control.task_id is None:
                    with store.transaction():
                        store.answer_control(self._lease, control.id, refused=None, actor=_ACTOR)
                        close_run(store, self._lease, cause_of_request(control), actor=control.actor)
                    print("cancelled before its host was loaded", flush=True)
                    _tell(store, self._project, self._lease.run_id)
                    os._exit(0)


def _give_up(project: Project, lease: Lease, error: BaseException) -> None:
    """Say why the run could not be driven, where everybody looks. What could not be written, because the
    disk is full, can be gone on with when there is room."""
    if isinstance(error, StateUnwritable):
        return
    cause = Cause.of_defect("its detached supervisor could not work", error)
    if isinstance(error, CrewError):
        cause = replace(cause, message=f"its detached supervisor could not work: {error}")
    with contextlib.suppress(CrewError), contextlib.closing(SqliteStore.open(project)) as store:
        if store.load_run(lease.run_id).state not in RUN_TERMINAL:
            close_run(store, lease, cause, actor=_ACTOR)
        _tell(store, project, lease.run_id)


def _tell(store: SqliteStore, project: Project, run_id: str) -> None:
    """Of a run that ended before its host was there to tell of it."""
    from crew_plugin.notify.watch import tell_now

    tell_now(store, project, run_id)


def _leave(number: int, _frame: FrameType | None) -> None:
    """End what the sessions run, and this process. The run stays as it is."""
    # Not by `print`: it may be what was interrupted.
    with contextlib.suppress(OSError):
        os.write(1, f"told to end by {signal.Signals(number).name}; the run can be resumed\n".encode())
    end_started(grace=_END_SECONDS)
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
