"""A host that is told to end by a signal leaves nothing running that our sessions started.

Bub has no handler for these signals, so the system ends it where it stands: workers notice that by their
sockets, the shells of live sessions do not.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["nothing_left_running"]

_SIGNALS: Final = ("SIGTERM", "SIGHUP")
_GRACE_SECONDS: Final = 2.0


@contextmanager
def nothing_left_running(begun: Callable[[], bool]) -> Generator[None]:
    """While the block lasts, end our sessions' commands before such a signal ends this process. Where
    somebody else handles the signal, it is left to them. `begun` tells whether there may be any."""

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        try:
            if begun():
                from crew_plugin.engine.orphans import OWNER_VARIABLE, end_marked, owner_mark
                from crew_plugin.store.liveness import current_owner

                end_marked(OWNER_VARIABLE, owner_mark(current_owner()), grace=_GRACE_SECONDS, but=os.getpid())
        finally:
            # An error here may be swallowed by the callback that the signal came in, and be no end.
            os.kill(os.getpid(), number)

    ours: list[int] = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is end:
                signal.signal(number, signal.SIG_DFL)
