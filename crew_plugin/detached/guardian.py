"""The parent of a detached supervisor: `python -m crew_plugin.detached.guardian ROOT STATE_DIR RUN`.

A supervisor that is killed cannot say so. Its guardian can: it waits for the end and writes down how
it came, if the run was not over, and ends what was left running. It does nothing else, so nothing else can
end it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Final

from crew_plugin.engine.orphans import end_orphans
from crew_plugin.errors import CrewError
from crew_plugin.models.records import NewEvent
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.project import Project
from crew_plugin.store.sqlite import SqliteStore

__all__ = ["main"]

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(root: str, state_dir: str, run_id: str) -> int:
    """Start the supervisor, wait for its end, write it down."""
    project = Project(root=Path(root), state_dir=Path(state_dir))
    command = [sys.executable, "-m", "crew_plugin.detached.supervisor", root, state_dir, run_id]
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        early.append(number)
        for process in started:
            process.send_signal(number)

    for each in _PASSED_ON:
        signal.signal(each, pass_on)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as supervisor:
        started.append(supervisor)
        for number in early:
            supervisor.send_signal(number)
        code = supervisor.wait()
    _note(project, run_id, supervisor.pid, code)
    if code:
        end_orphans()
    return 0 if code == 0 else 1


def _note(project: Project, run_id: str, pid: int, code: int) -> None:
    try:
        store = SqliteStore.open(project)
        try:
            run = store.load_run(run_id)
            mine = run.owner is None or run.owner.pid == pid
            if run.state in RUN_TERMINAL or not mine:
                return
            data = {"pid": pid, "how": _how(code), "log": str(project.log_of(run_id))}
            event = NewEvent(type="run.supervisor_ended", actor="guardian", data=data)
            store.append_events(None, run_id, [event])
            # Imported only where there is something to tell: this process is to stay small.
            from crew_plugin.notify.notice import LOST
            from crew_plugin.notify.watch import tell_now

            tell_now(store, project, run_id, LOST)
        finally:
            store.close()
    except CrewError as error:
        print(f"how the supervisor ended ({_how(code)}) could not be written down: {error}", file=sys.stderr)


def _how(code: int) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"killed by signal {-code} ({name})"
    return f"ended by itself with exit code {code}"


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(*sys.argv[1:4]))
