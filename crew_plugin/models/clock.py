"""A clock for deadlines that are written down."""

import time

__all__ = ["steady_time"]

_AHEAD = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds of the epoch, by what the system's clock said when this process began. Whoever sets that
    clock later makes no deadline of this process come early or late."""
    return _AHEAD + time.monotonic()
