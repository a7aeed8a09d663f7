"""What no test may leave behind: tasks, processes, threads of the crew, open stores, shells.

`nothing_is_left` is imported by the conftest of each folder whose tests open sessions. It looks
after everything else of a test was torn down.
"""

import asyncio
import contextlib
import gc
import inspect
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import psutil
import pytest

from crew_plugin.store.writer import StoreWriter

__all__ = ["no_task_is_left", "nobody_listens", "nothing_is_left"]

_MARK: Final = "TESTS_OF_PROCESS"
os.environ[_MARK] = str(os.getpid())
_SECONDS: Final = 5.0
"""What a stop may take to end a process, and what is being reaped needs."""


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that left something behind."""
    pids, threads = set(psutil.pids()), _threads()
    if inspect.iscoroutinefunction(getattr(request.node, "function", None)):
        request.getfixturevalue("no_task_is_left")
    yield
    left = sorted(thread.name for thread in _threads() - threads)
    assert left == [], "a thread of a store is left"
    assert _gone(lambda: _processes(pids)) == [], "a process is left"
    assert _shells() == [], "a shell of Bub's is left"


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    """Fails a test that left a task in the loop."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if not _runs_tests(task)}
    if left:
        await asyncio.wait(left, timeout=_SECONDS)  # who was cancelled needs a turn of the loop
    names = [str(task) for task in left if not task.done()]
    assert names == [], "a task is left"


@pytest.fixture(autouse=True, scope="module")
def nobody_listens() -> Iterator[None]:
    """Fails a module whose tests left a store that somebody still listens to. Looks at all objects,
    which takes too long for every test."""
    yield
    gc.collect()  # what a test let go of may not have been looked at yet
    stores = [each for each in gc.get_objects() if isinstance(each, StoreWriter)]
    assert [each for each in stores if each._subscriptions] == [], "somebody still listens to a store"


def _runs_tests(task: "asyncio.Task[object]") -> bool:
    """Whether it is one of the test runner's own."""
    return "TestRunner." in getattr(task.get_coro(), "__qualname__", "")


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("crew")}


def _processes(before: set[int]) -> list[psutil.Process]:
    """Processes of this test run that carry the mark of a session."""
    found: list[psutil.Process] = []
    for pid in set(psutil.pids()) - before:
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            environment = process.environ()
            ours = environment.get(_MARK) == str(os.getpid()) and "CREW_SESSION" in environment
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _gone(look: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    """What is still there after the time that things may take to go."""
    deadline = time.monotonic() + _SECONDS
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _shells() -> list[object]:
    module = sys.modules.get("bub.builtin.shell_manager")
    return [] if module is None else list(module.shell_manager._shells.values())
