"""What supervisors that died have left running: found by the mark that their children carry.

Every process that a session starts has its supervisor's name in the environment. One whose
supervisor is gone belongs to nobody any more; those of a living supervisor are never touched.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crew_plugin.models.records import Owner
from crew_plugin.store.liveness import owner_alive

if TYPE_CHECKING:
    import psutil

__all__ = [
    "DEPTH_VARIABLE",
    "OWNER_VARIABLE",
    "Orphan",
    "depth_here",
    "end_marked",
    "end_orphans",
    "find_orphans",
    "owner_mark",
]

OWNER_VARIABLE: Final = "CREW_SUPERVISOR"
"""In the environment of all that sessions start."""
DEPTH_VARIABLE: Final = "CREW_DEPTH"
_GRACE_SECONDS: Final = 3.0
"""How long those that are asked to end may take before they are killed."""

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
    return [found.orphan() for found in _find(_is_abandoned)]


def end_orphans(grace: float = _GRACE_SECONDS, *, only: Collection[int] | None = None) -> list[Orphan]:
    """End what dead supervisors of this user have left running, of these pids where they are given;
    tells of each. Blocks for up to `grace` seconds, so it is not for an event loop."""
    orphans = _end([each for each in _find(_is_abandoned) if only is None or each.process.pid in only], grace)
    for orphan in orphans:
        how = "killed" if orphan.killed else "ended"
        logger.warning("%s process %d of a supervisor that died: %s", how, orphan.pid, orphan.command)
    return orphans


def end_marked(variable: str, value: str, *, grace: float, but: int) -> list[Orphan]:
    """End every process of this user that has this variable, but for one. Blocks like `end_orphans`."""
    marked = _find(lambda environment: environment.get(variable) == value)
    return _end([each for each in marked if each.process.pid != but], grace)


@dataclass(frozen=True, slots=True)
class _Found:
    """A process, and what it said of itself while it could."""

    process: "psutil.Process"
    command: str
    session: str
    run: str

    def orphan(self, *, killed: bool = False) -> Orphan:
        """It as it is told of."""
        return Orphan(
            pid=self.process.pid, command=self.command, session=self.session, run=self.run, killed=killed
        )


def _find(wanted: Callable[[Mapping[str, str]], bool]) -> list[_Found]:
    import psutil

    found: list[_Found] = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if wanted(environment):
                command = " ".join(process.cmdline())[:200]
                session, run = environment.get("CREW_SESSION", ""), environment.get("CREW_RUN", "")
                found.append(_Found(process, command, session, run))
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or not ours to look at
    return found


def _end(wanted: Iterable[_Found], grace: float) -> list[Orphan]:
    import psutil

    found: list[_Found] = []
    for each in wanted:
        with contextlib.suppress(psutil.Error, OSError):
            each.process.terminate()
            found.append(each)
    deadline = time.monotonic() + grace
    while any(_runs(each.process) for each in found) and time.monotonic() < deadline:
        time.sleep(0.02)
    orphans: list[Orphan] = []
    for each in found:
        killed = _runs(each.process)
        if killed:
            with contextlib.suppress(psutil.Error):
                each.process.kill()
        orphans.append(each.orphan(killed=killed))
    return orphans


def _is_abandoned(environment: Mapping[str, str]) -> bool:
    return _abandoned(environment.get(OWNER_VARIABLE, ""))


def _abandoned(mark: str) -> bool:
    pid, _, rest = mark.partition("/")
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
