"""A process that works on a store, or watches it; run by `test_processes.py`.

busy_process.py work FOLDER RUNS    drive that many runs (0: until killed), four at a time
busy_process.py watch FOLDER RUNS   follow all events until that many runs have ended

Prints the number of every event after it was acknowledged, one a line.
"""

import asyncio
import os
import sys
from collections.abc import Sequence

from crew_plugin.models.records import EventRecord, Lease, NewEvent, NewResult, NewRun, NewTask
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState
from crew_plugin.project import find_project
from crew_plugin.store.follow import follow
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter


def tell(events: Sequence[EventRecord]) -> None:
    # One write for each, so that a kill never leaves half a line that looks like a number.
    for event in events:
        os.write(1, f"{event.seq}\n".encode())


async def drive(writer: StoreWriter) -> None:
    run = await writer.run(
        lambda store: store.create_run(
            NewRun(goal="g", team="t", workflow="w", cwd="/", spec="{}"),
            [NewTask(key=str(n), title="t", role="r", agent="a") for n in range(3)],
            actor="test",
        )
    )
    lease = await writer.run(lambda store: store.claim(run.id, current_owner()))
    await writer.run(lambda store: store.transition_run(lease, RunState.RUNNING, actor="test"))
    async with asyncio.TaskGroup() as group:
        for task in await writer.read(lambda store: store.load_tasks(run.id)):
            group.create_task(work(writer, lease, task.id))
    await writer.run(lambda store: store.transition_run(lease, RunState.COMPLETED, actor="test"))


async def work(writer: StoreWriter, lease: Lease, task_id: str) -> None:
    attempt = await writer.run(
        lambda store: store.start_attempt(
            lease, task_id, kind=SessionKind.LIVE, engine="e", model=None, cwd="/", actor="test"
        )
    )
    for _ in range(3):
        note = [NewEvent(type="session.note", actor="test", attempt_id=attempt.id, data={"text": "hi"})]
        await writer.run(lambda store, note=note: store.append_events(lease, lease.run_id, note))  # type: ignore[misc]

    def finish(store: RunStore) -> None:
        store.accept_result(lease, attempt.id, NewResult(summary=f"done {task_id}"), actor="test")
        store.end_attempt(
            lease, attempt.id, AttemptState.COMPLETED, task_state=TaskState.COMPLETED, actor="test"
        )

    await writer.run(finish)


async def work_on(folder: str, runs: int) -> None:
    async def lane(share: int) -> None:
        done = 0
        while runs == 0 or done < share:
            await drive(writer)
            done += 1

    async with StoreWriter(find_project(explicit=folder)) as writer:
        writer.subscribe(lambda event: tell([event]))
        async with asyncio.TaskGroup() as group:
            for first in range(4):
                group.create_task(lane(len(range(first, runs, 4))))


async def watch(folder: str, runs: int) -> None:
    async with StoreWriter(find_project(explicit=folder)) as writer:
        async for event in follow(writer, None):
            tell([event])
            runs -= event.type == "run.completed"
            if not runs:
                break


if __name__ == "__main__":
    action, place, count = sys.argv[1:]
    if action == "work":
        asyncio.run(work_on(place, int(count)))
    else:
        asyncio.run(watch(place, int(count)))
