"""Starting a detached supervisor for a run that was written down."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crew_plugin.errors import HostUnsupported, StateUnwritable
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.project import Project, ensure_state
from crew_plugin.store.sqlite import SqliteStore

__all__ = ["Detached", "can_detach", "start_detached"]

CLAIM_SECONDS: Final = 15.0
"""How long the new process may take to claim its run, on a machine with much to do."""
_LOOK_SECONDS: Final = 0.02
_OURS: Final = "CREW_SUPERVISOR", "CREW_SESSION", "CREW_RUN", "CREW_TASK", "CREW_ROLE"
"""Marks of the session in which this may be called: the new process belongs to none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """A supervisor that was started."""

    run: RunRecord
    log: Path


def can_detach() -> bool:
    """Whether this system can have processes that belong to no terminal."""
    return os.name == "posix"


def start_detached(project: Project, run_id: str) -> Detached:
    """Start a supervisor for the run and return when it has claimed it. Blocks.

    Raises:
        HostUnsupported: it could not be started, or ended before it claimed the run.
    """
    ensure_state(project)
    log = project.log_of(run_id)
    command = [sys.executable, "-m", "crew_plugin.detached.guardian"]
    command += [str(project.root), str(project.state_dir), run_id]
    environment = {key: value for key, value in os.environ.items() if key not in _OURS}
    try:
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            guardian = subprocess.Popen(
                command,
                cwd=project.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise StateUnwritable(log, error.strerror or str(error)) from error
    deadline = time.monotonic() + CLAIM_SECONDS
    with closing(SqliteStore.open(project, read_only=True)) as store:
        while time.monotonic() < deadline:
            run = store.load_run(run_id)
            if run.owner is not None or run.state in RUN_TERMINAL:
                # Waited for by a thread that ends with this process; then the system does.
                threading.Thread(target=guardian.wait, name="crew-guardian", daemon=True).start()
                return Detached(run=run, log=log)
            if guardian.poll() is not None:
                break
            time.sleep(_LOOK_SECONDS)
        if guardian.poll() is None:
            # With the supervisor, if there is one: it must not begin what its caller was told is not begun.
            os.killpg(guardian.pid, signal.SIGKILL)
            guardian.wait()
        run = store.load_run(run_id)
        if run.state in RUN_TERMINAL:
            return Detached(run=run, log=log)
    raise HostUnsupported(f"the detached supervisor of run {run_id} did not start; it says why in {log}")
