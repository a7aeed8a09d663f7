"""What supervisors that died have left running: found by the mark that their children carry.

Every process that a session starts has its supervisor's name in the environment. One whose
supervisor is gone belongs to nobody any more; those of a living supervisor are never touched.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from crew_plugin.models.records import Owner
from crew_plugin.store.liveness import current_owner, owner_alive

if TYPE_CHECKING:
    import psutil

__all__ = [
    "DEPTH_VARIABLE",
    "OWNER_VARIABLE",
    "Orphan",
    "depth_here",
    "end_marked",
    "end_orphans",
    "end_started",
    "find_orphans",
    "owner_mark",
]

OWNER_VARIABLE: Final = "CREW_SUPERVISOR"
"""In the environment of all that sessions start."""
DEPTH_VARIABLE: Final = "CREW_DEPTH"
_GRACE_SECONDS: Final = 3.0
"""How long those that are asked to end may take before they are killed."""
_DYING_SECONDS: Final = 1.0
"""How long one that was killed may take to be gone."""
_ROUNDS: Final = 3
"""How often is looked for those that were started while others were being ended."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A process that was left behind."""

    pid: int
    command: str
    session: str
    run: str
    killed: bool = False
    """It did not end when it was asked to."""


def depth_here() -> int:
    """In how many runs this process is: 0 outside of all, 1 in the shell of a session."""
    try:
        return int(os.environ.get(DEPTH_VARIABLE, "0"))
    except ValueError:
        return 0


def owner_mark(owner: Owner) -> str:
    """The value of the variable for this supervisor."""
    return f"{owner.pid}/{owner.started!r}/{owner.boot_id}"


def find_orphans() -> list[Orphan]:
    """What dead supervisors of this user have left running. Where the system does not show environments
    of processes nothing is found."""
    return [_told_of(process) for process in filter(_runs, _marked(_abandoned))]


def end_orphans(grace: float = _GRACE_SECONDS, *, only: Collection[int] | None = None) -> list[Orphan]:
    """End what dead supervisors of this user have left running, of these pids where they are given;
    tells of each. Blocks for up to `grace` seconds, so it is not for an event loop."""

    def left() -> "Iterator[psutil.Process]":
        return (each for each in _marked(_abandoned) if only is None or each.pid in only)

    orphans = _end(left, grace)
    for orphan in orphans:
        how = "killed" if orphan.killed else "ended"
        logger.warning("%s process %d of a supervisor that died: %s", how, orphan.pid, orphan.command)
    return orphans


def end_marked(variable: str, value: str, *, grace: float, but: int) -> list[Orphan]:
    """End every process of this user that has this variable, but for one. Blocks like `end_orphans`."""
    return _end(lambda: _marked(lambda environment: environment.get(variable) == value, but=but), grace)


def end_started(*, grace: float) -> list[Orphan]:
    """End what this process has started, and what that has let go of: for when it has to end itself.
    Blocks like `end_orphans`."""
    import psutil

    here, mark = psutil.Process(), owner_mark(current_owner())

    def started() -> "Iterator[psutil.Process]":
        yield from here.children(recursive=True)
        yield from _marked(lambda environment: environment.get(OWNER_VARIABLE) == mark, but=here.pid)

    ended = _end(started, grace)
    psutil.wait_procs(here.children(), timeout=_DYING_SECONDS)  # nobody else asks how they ended
    return ended


def _end(look: "Callable[[], Iterator[psutil.Process]]", grace: float) -> list[Orphan]:
    """Ask those that are found to end, kill those that do not, and look again: one of them may have
    started another one meanwhile."""
    import psutil

    ended: dict[int, Orphan] = {}
    for _ in range(_ROUNDS):
        found: dict[int, tuple[psutil.Process, Orphan]] = {}
        for process in filter(_runs, look()):
            with contextlib.suppress(psutil.Error):  # gone meanwhile
                found[process.pid] = (process, _told_of(process))
                process.terminate()
        if not found.keys() - ended.keys():
            break
        processes = [process for process, _ in found.values()]
        _until_gone(processes, grace)
        for process, orphan in found.values():
            killed = _runs(process)
            if killed:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            ended[process.pid] = replace(orphan, killed=killed)
        _until_gone(processes, _DYING_SECONDS)
    return list(ended.values())


def _told_of(process: "psutil.Process") -> Orphan:
    """A process, its command, its session and its run, as far as the system shows them."""
    import psutil

    command, environment = "", dict[str, str]()
    with contextlib.suppress(psutil.Error, OSError):
        command = " ".join(process.cmdline())[:200]
        environment = process.environ()
    session, run = environment.get("CREW_SESSION", ""), environment.get("CREW_RUN", "")
    return Orphan(pid=process.pid, command=command, session=session, run=run)


def _until_gone(processes: "Sequence[psutil.Process]", seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _marked(wanted: Callable[[Mapping[str, str]], bool], *, but: int = 0) -> "Iterator[psutil.Process]":
    """The processes with such an environment. Those in a container are left alone: the supervisors that
    they name cannot be seen from here."""
    import psutil

    space = _pid_space("self")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone meanwhile, or not ours to look at
            if process.pid != but and wanted(process.environ()) and _pid_space(process.pid) == space:
                yield process


def _pid_space(process: int | str) -> str:
    """In which numbering its pid is one; empty where the system has only one."""
    try:
        return os.readlink(f"/proc/{process}/ns/pid")
    except OSError:
        return ""


def _abandoned(environment: Mapping[str, str]) -> bool:
    pid, _, rest = environment.get(OWNER_VARIABLE, "").partition("/")
    started, _, boot_id = rest.partition("/")
    try:
        owner = Owner(pid=int(pid), started=float(started), boot_id=boot_id)
    except ValueError:
        return False
    return not owner_alive(owner)


def _runs(process: "psutil.Process") -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
