"""What supervisors that died have left running: found by the mark that their children carry.

Every process that a session starts has its supervisor's name in the environment. One whose
supervisor is gone belongs to nobody any more; those of a living supervisor are never touched.
"""

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Final

from crew_plugin.models.records import Owner
from crew_plugin.store.liveness import owner_alive

__all__ = ["OWNER_VARIABLE", "Orphan", "end_orphans", "owner_mark"]

OWNER_VARIABLE: Final = "CREW_SUPERVISOR"
"""In the environment of all that sessions start."""
_GRACE_SECONDS: Final = 3.0
"""How long those that are asked to end may take before they are killed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A process that was left behind."""

    pid: int
    command: str
    session: str
    killed: bool
    """It did not end when it was asked to."""


def owner_mark(owner: Owner) -> str:
    """The value of the variable for this supervisor."""
    return f"{owner.pid}/{owner.started!r}/{owner.boot_id}"


def end_orphans(grace: float = _GRACE_SECONDS) -> list[Orphan]:
    """End what dead supervisors of this user have left running; tells of each. Blocks for up to
    `grace` seconds, so it is not for an event loop. Where the system does not show environments of
    processes nothing is found."""
    import psutil

    found: list[tuple[psutil.Process, str, str]] = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if _abandoned(environment.get(OWNER_VARIABLE, "")):
                command = " ".join(process.cmdline())[:200]
                process.terminate()
                found.append((process, command, environment.get("CREW_SESSION", "")))
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or not ours to look at
    if not found:
        return []
    deadline = time.monotonic() + grace
    while any(_runs(process) for process, _, _ in found) and time.monotonic() < deadline:
        time.sleep(0.02)
    orphans: list[Orphan] = []
    for process, command, session in found:
        killed = _runs(process)
        if killed:
            with contextlib.suppress(psutil.Error):
                process.kill()
        orphans.append(Orphan(pid=process.pid, command=command, session=session, killed=killed))
        how = "killed" if killed else "ended"
        logger.warning("%s process %d of a supervisor that died: %s", how, process.pid, command)
    return orphans


def _abandoned(mark: str) -> bool:
    pid, _, rest = mark.partition("/")
    started, _, boot_id = rest.partition("/")
    try:
        owner = Owner(pid=int(pid), started=float(started), boot_id=boot_id)
    except ValueError:
        return False
    return not owner_alive(owner)


def _runs(process: "object") -> bool:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
