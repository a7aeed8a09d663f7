"""Waiting for foreign code no longer than it may take, whether it heeds a cancellation or not."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

__all__ = ["Late", "in_time"]

_CALLS: Final[set["asyncio.Task[Any]"]] = set()
"""Calls under way, and those that were left alone: a task that nobody holds may vanish."""


class Late(Exception):
    """It did not answer in time."""


async def in_time[T](answer: Awaitable[T], seconds: float, *, name: str) -> T:
    """The answer, if it comes within so many seconds. Raises `Late`, and what the foreign code raised.

    What is late is cancelled once and left alone: a scope around it would wait until it heeds that, or spin.
    """

    async def heard() -> tuple[list[T], BaseException | None]:
        try:
            return [await answer], None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - raised where it is waited for
            return [], error

    call = asyncio.create_task(heard(), name=name)
    _CALLS.add(call)
    call.add_done_callback(_CALLS.discard)
    try:
        await asyncio.wait({call}, timeout=seconds)
    finally:
        late = not call.done()
        call.cancel()
    if late:
        raise Late(f"took longer than {seconds:g} s")
    said, error = call.result()
    if error is not None:
        raise error
    return said[0]
