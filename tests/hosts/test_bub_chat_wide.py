"""A hundred tasks at once from one chat: all results arrive, and the host's loop stays free."""

import asyncio
import gc
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pytest

from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_chat import chat, team_script

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bub,
    # Bub makes a client for each model call of a parent and closes none of them.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

TASKS = 100
ROOMS = ("/crew_plugin/", "/crew_hooks/", "/crew_tools/")
SLOW = 0.008


@dataclass(slots=True)
class Watch:
    """How long callbacks of the loop took, in CPU time of its thread, and what the slow ones did."""

    longest: float = 0.0
    ours: float = 0.0
    slow: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    _began: float | None = None
    _seen: str = ""
    _collecting: float = 0.0
    _collected: float = 0.0

    def run(self, inner: Callable[[asyncio.Handle], None], handle: asyncio.Handle) -> None:
        self._seen, self._began, self._collected = "", time.monotonic(), 0.0
        cpu = time.thread_time()
        try:
            inner(handle)
        finally:
            took, self._began = time.thread_time() - cpu - self._collected, None
            self.longest = max(self.longest, took)
            if took > SLOW:
                self.slow.append((took, self._seen))
                if any(room in self._seen for room in ROOMS):
                    self.ours = max(self.ours, took)

    def collecting(self, phase: str, _: object) -> None:
        """The garbage collector works whenever it is due, and nobody's callback is to blame."""
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._collected += time.thread_time() - self._collecting

    def sample(self, thread: int, stop: threading.Event) -> None:
        while not stop.wait(0.002):
            began = self._began
            if began is not None and time.monotonic() - began > SLOW and not self._seen:
                self._seen = _where(sys._current_frames().get(thread))


def _where(frame: FrameType | None) -> str:
    """The innermost frame, and the innermost of ours if we are the one who called it."""
    places: list[str] = []
    while frame is not None:
        name = frame.f_code.co_filename
        ours = any(room in name for room in ROOMS)
        if not places or ours:
            places.append(f"{name}:{frame.f_lineno} {frame.f_code.co_name}")
        if ours:
            break
        frame = frame.f_back
    return " < ".join(places)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watch, stop = Watch(), threading.Event()
    inner = asyncio.Handle._run
    monkeypatch.setattr(asyncio.Handle, "_run", lambda handle: watch.run(inner, handle))
    sampler = threading.Thread(target=watch.sample, args=(threading.get_ident(), stop), daemon=True)
    sampler.start()
    gc.callbacks.append(watch.collecting)
    try:
        yield watch
    finally:
        gc.callbacks.remove(watch.collecting)
        monkeypatch.setattr(asyncio.Handle, "_run", inner)
        stop.set()
        sampler.join()


def _script(conversation: Conversation) -> Reply:
    if conversation.offered("submit_result"):
        number = re.findall(r"NUMBER-\d+\.", conversation.first_user)[-1]
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": f"I am {number}"}),))
    if not conversation.new_results:
        tasks = [{"goal": f"say which number you are: NUMBER-{number}."} for number in range(TASKS)]
        return Reply(calls=(ToolUse(name="team", arguments={"action": "parallel", "tasks": tasks}),))
    return team_script(conversation)


async def test_a_hundred_parallel_tasks_all_report_and_the_loop_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    async with asyncio.timeout(110), chat(tmp_path, monkeypatch, _script, latency=0.05) as bub:
        with watched(monkeypatch) as watch:
            await bub.say("go")
            answer = await bub.hear("TOOL SAID")
        results = bub.store(lambda store: store.list_results(store.load_run("last").id))

    assert len({result.summary for result in results}) == TASKS
    assert set(re.findall(r"NUMBER-(\d+)\.", answer)) == {str(number) for number in range(TASKS)}
    assert bub.server.peak <= 8 + 1, "the width of a run, and the parent"
    record_property("longest callback, ms of CPU", round(watch.longest * 1000, 1))
    record_property("longest callback of ours, ms of CPU", round(watch.ours * 1000, 1))
    sys.stderr.write(
        f"\nlongest callback {watch.longest * 1000:.1f} ms of CPU, of ours {watch.ours * 1000:.1f} ms\n"
        + "".join(f"  {took * 1000:.1f} ms  {where}\n" for took, where in sorted(watch.slow)[-8:])
    )
