"""Waiting for foreign code no longer than it may take, whether it heeds a cancellation or not."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

__all__ = ["Late", "in_time", "is_ours"]

_CALLS: Final[set["asyncio.Task[Any]"]] = set()
"""Calls under way, and those that were left alone: a task that nobody holds may vanish."""


class Late(Exception):
    """It did not answer in time."""


def is_ours(error: BaseException) -> bool:
    """Whether what came out of foreign code was meant for its caller: an interrupt, the caller's end, or
    a cancellation of the calling task, and not one that the foreign code brought about.

    All else, `SystemExit` and the panics of extension modules among it, is a fault of that code.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | GeneratorExit)


async def in_time[T](answer: Awaitable[T], seconds: float, *, name: str) -> T:
    """The answer, if it comes within so many seconds. Raises `Late`, and what the foreign code raised,
    whatever that was: see `is_ours`.

    What is late is cancelled once and left alone: a scope around it would wait until it heeds that, or spin.
    """

    async def heard() -> tuple[list[T], BaseException | None]:
        try:
            return [await answer], None
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except GeneratorExit as error:  # raised as it is it would look as if the caller were closed
            return [], RuntimeError(repr(error))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
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
