"""What the store itself can do, and how long it takes to go on with a run.

Usage: store_case.py. Prints {"commits", "follow", "status", "interpreter", "one_status", "last_status",
"runs", "inbox"}: commits a second of one event each, one after the other; seconds until another connection
has seen an event (median); seconds to read the status of one run among 1,000 of 20 tasks (median); seconds
that an interpreter takes to start and end; and what `crew status` of an old and of the newest run, `crew
runs` and `crew inbox` take beyond that with 10,000 runs of one chat in the store (medians).
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crew_plugin.models.records import NewEvent, NewRun, NewTask, ParentRef
from crew_plugin.models.states import RunState
from crew_plugin.project import find_project
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.store.writer import StoreWriter
from crew_plugin.ui.views import run_view

EVENT = NewEvent(type="session.note", actor="bench", data={"text": "a note of some length " * 10})


def fill(store: SqliteStore, runs: int, tasks: int, *, parent: ParentRef | None = None) -> list[str]:
    """So many runs of so many tasks. Those of a parent have ended, and owe it their end."""
    ids: list[str] = []
    spec = json.dumps({"width": 4, "runtime": "live"})
    for start in range(0, runs, 500):
        with store.transaction():
            for number in range(start, min(runs, start + 500)):
                new = NewRun(
                    goal=f"goal {number}",
                    team="t",
                    workflow="w",
                    cwd="/",
                    spec=spec,
                    parent=parent,
                    background=parent is not None,
                )
                keys = [NewTask(key=f"t{n}", title="a task", role="r", agent="a") for n in range(tasks)]
                ids.append(store.create_run(new, keys, actor="bench").id)
                if parent is not None:
                    lease = store.claim(ids[-1], current_owner())
                    store.transition_run(lease, RunState.CANCELLED, actor="bench")
    return ids


def commits(store: SqliteStore, run_id: str, count: int = 500) -> float:
    """Commits a second."""
    begun = time.perf_counter()
    for _ in range(count):
        store.append_events(None, run_id, [EVENT])
    return count / (time.perf_counter() - begun)


async def follow_seconds(folder: Path, run_id: str, count: int = 40) -> float:
    """From an event's commit in one connection to its arrival in a follower of another."""
    from crew_plugin.store.follow import follow

    project = find_project(explicit=folder)
    seen: list[float] = []
    async with StoreWriter(project) as writer, StoreWriter(project) as other:
        after = await other.read(lambda store: store.last_seq())
        arrived = asyncio.Event()

        async def watch() -> None:
            async for _ in follow(other, run_id, after_seq=after):
                arrived.set()

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.2)
        for number in range(count):
            arrived.clear()
            await writer.run(lambda store: store.append_events(None, run_id, [EVENT]))
            committed = time.perf_counter()
            await arrived.wait()
            seen.append(time.perf_counter() - committed)
            await asyncio.sleep(0.013 * (number % 4))
        watching.cancel()
    return statistics.median(seen)


def command_seconds(folder: Path, *commands: tuple[str, ...]) -> list[float]:
    """Of an interpreter that does nothing, and of each command of `crew` beyond that, taken in turn."""

    def timed(*command: str) -> float:
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ}
        )
        return time.perf_counter() - begun

    rounds: list[list[float]] = []
    for _ in range(7):
        floor = timed("-c", "")
        beyond = [
            timed("-m", "crew_plugin.cli", *words, "--project", str(folder)) - floor for words in commands
        ]
        rounds.append([floor, *beyond])
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def main(folder: Path) -> dict[str, float]:
    """All figures."""
    small, large = folder / "small", folder / "large"
    for each in (small, large):
        each.mkdir()
    store = SqliteStore.open(find_project(explicit=small))
    ids = fill(store, 1000, 20)
    figures = {"commits": commits(store, ids[0])}
    looks: list[float] = []
    for ident in ids[100:140]:
        begun = time.perf_counter()
        run_view(store, ident)
        looks.append(time.perf_counter() - begun)
    figures["status"] = statistics.median(looks)
    store.close()
    figures["follow"] = asyncio.run(follow_seconds(small, ids[1]))
    store = SqliteStore.open(find_project(explicit=large))
    ids = fill(store, 10_000, 3, parent=ParentRef(host="bub", session="cli:local", route={}))
    store.close()
    commands = (("status", ids[5000][-8:]), ("status", "last"), ("runs",), ("inbox", "--all"))
    names = ("interpreter", "one_status", "last_status", "runs", "inbox")
    return figures | dict(zip(names, command_seconds(large, *commands), strict=True))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="crew-bench-") as name:
        print(json.dumps(main(Path(name))))
