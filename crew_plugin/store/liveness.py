"""Who a process is, and whether it still lives: a pid alone is reused, so it is never enough."""

import os
import sys

from crew_plugin.models.records import Owner

__all__ = ["current_owner", "owner_alive"]

_DEAD_STATES = "ZXx"


def current_owner() -> Owner:
    """This process."""
    pid = os.getpid()
    started = _started(pid)
    return Owner(pid=pid, started=0.0 if started is None else started, boot_id=_boot_id())


def owner_alive(owner: Owner) -> bool:
    """Whether that very process still runs: same boot, same pid, same start time. What cannot be found
    out, because this process may open no more files, counts as alive: only its lease tells then."""
    try:
        if owner.boot_id != _boot_id():
            return False
        return _started(owner.pid) == owner.started
    except OSError:
        return True


if sys.platform == "linux":
    # /proc is read instead of asking psutil: status commands do this and stay light.

    def _boot_id() -> str:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except (FileNotFoundError, PermissionError):
            return ""  # there is no /proc, always

    def _started(pid: int) -> float | None:
        """Seconds from boot to the start of a process; None if it is gone or a zombie."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                stat = file.read()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name in the second field may hold spaces and parentheses: count from its end.
        fields = stat.rpartition(b")")[2].split()
        if fields[0].decode("ascii") in _DEAD_STATES:
            return None
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")

else:

    def _boot_id() -> str:
        return ""

    def _started(pid: int) -> float | None:
        import psutil

        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
        except psutil.NoSuchProcess:
            return None
