"""The store on an event loop: shared commits, answers to the right caller, and a free loop."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from blockbuster import blockbuster_ctx

from crew_plugin.errors import CrewError, IllegalTransition, StateUnwritable
from crew_plugin.models.records import EventRecord, Lease, NewEvent
from crew_plugin.models.states import RunState
from crew_plugin.project import Project, find_project
from crew_plugin.store.follow import follow, others
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.store.writer import StoreWriter
from tests.contracts.run_store import new_run, new_task
from tests.store.processes import environment, live_process

pytestmark = pytest.mark.anyio


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return find_project(explicit=tmp_path)


@pytest.fixture
async def writer(project: Project) -> AsyncIterator[StoreWriter]:
    async with StoreWriter(project) as opened:
        yield opened


@pytest.fixture
async def lease(writer: StoreWriter) -> Lease:
    def begin(store: RunStore) -> Lease:
        run = store.create_run(new_run(), [new_task("one")], actor="cli")
        lease = store.claim(run.id, current_owner())
        store.transition_run(lease, RunState.RUNNING, actor="supervisor")
        return lease

    return await writer.run(begin)


def note(store: RunStore, lease: Lease, text: str) -> EventRecord:
    (event,) = store.append_events(
        lease, lease.run_id, [NewEvent(type="session.note", actor="s", data={"text": text})]
    )
    return event


async def notes(writer: StoreWriter, lease: Lease) -> list[str]:
    events = await writer.read(lambda store: store.tail(lease.run_id))
    return [event.data["text"] for event in events if event.type == "session.note"]


class Gate:
    """Keeps the writing thread busy until it is opened, so that what comes next waits together."""

    def __init__(self) -> None:
        self._go = threading.Event()
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def work(self, _: RunStore) -> None:
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._go.wait(30)

    def open(self) -> None:
        self._go.set()


async def test_nothing_is_touched_before_the_first_use(project: Project, tmp_path: Path) -> None:
    before = threading.active_count()
    async with StoreWriter(project):
        assert threading.active_count() == before
    assert os.listdir(tmp_path) == []


async def test_reading_what_does_not_exist_makes_nothing(project: Project, tmp_path: Path) -> None:
    async with StoreWriter(project) as writer:
        assert await writer.read(lambda store: store.list_runs()) == []
        assert os.listdir(tmp_path) == []
        run = await writer.run(lambda store: store.create_run(new_run(), [], actor="cli"))
        assert await writer.read(lambda store: store.load_run("last")) == run


async def test_what_was_answered_is_committed(writer: StoreWriter, lease: Lease, project: Project) -> None:
    event = await writer.run(lambda store: note(store, lease, "hello"))

    other = SqliteStore.open(project, read_only=True)
    assert other.tail(lease.run_id)[-1] == event
    other.close()


async def test_an_error_goes_to_its_caller_and_undoes_only_its_own_work(
    writer: StoreWriter, lease: Lease
) -> None:
    heard: list[str] = []
    writer.subscribe(lambda event: heard.append(event.data.get("text", event.type)))

    def fails(store: RunStore) -> None:
        note(store, lease, "undone")
        raise ZeroDivisionError

    def is_refused(store: RunStore) -> None:
        note(store, lease, "undone too")
        store.transition_run(lease, RunState.QUEUED, actor="x")

    gate = Gate()
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.run(gate.work))
        await gate.entered.wait()
        first = group.create_task(writer.run(lambda store: note(store, lease, "first")))
        bad = asyncio.gather(writer.run(fails), writer.run(is_refused), return_exceptions=True)
        last = group.create_task(writer.run(lambda store: note(store, lease, "last")))
        await anyio.lowlevel.checkpoint()
        gate.open()
        errors = await bad

    assert [type(error) for error in errors] == [ZeroDivisionError, IllegalTransition]
    assert await notes(writer, lease) == ["first", "last"]
    assert heard == ["first", "last"]
    assert first.result().seq < last.result().seq


async def test_one_failing_operation_alone_is_undone(writer: StoreWriter, lease: Lease) -> None:
    def fails(store: RunStore) -> None:
        note(store, lease, "undone")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer.run(fails)

    assert await notes(writer, lease) == []


async def test_a_cancelled_caller_does_not_undo_its_operation(writer: StoreWriter, lease: Lease) -> None:
    gate = Gate()
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.run(gate.work))
        await gate.entered.wait()
        caller = group.create_task(writer.run(lambda store: note(store, lease, "kept")))
        await anyio.lowlevel.checkpoint()
        caller.cancel()
        await asyncio.wait([caller])
        gate.open()

    assert caller.cancelled()
    await writer.run(lambda store: None)
    assert await notes(writer, lease) == ["kept"]


async def test_leaving_finishes_what_was_handed_over_and_joins_the_threads(project: Project) -> None:
    before = threading.active_count()
    async with asyncio.TaskGroup() as group:
        async with StoreWriter(project) as writer:
            tasks = [
                group.create_task(writer.run(lambda store: store.create_run(new_run(), [], actor="cli")))
                for _ in range(20)
            ]
            await anyio.lowlevel.checkpoint()
            await writer.read(lambda store: None)
        assert threading.active_count() == before

    store = SqliteStore.open(project, read_only=True)
    assert {task.result().id for task in tasks} == {run.id for run in store.list_runs()}
    store.close()
    with pytest.raises(CrewError, match="async with"):
        await writer.run(lambda store: None)


async def test_leaving_while_cancelled_still_finishes(project: Project) -> None:
    async def use() -> None:
        async with StoreWriter(project) as writer:
            gate = Gate()
            slow = asyncio.ensure_future(writer.run(gate.work))
            await gate.entered.wait()
            kept = asyncio.ensure_future(
                writer.run(lambda store: store.create_run(new_run(), [], actor="cli"))
            )
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                asyncio.get_running_loop().call_later(0.05, gate.open)
        await asyncio.gather(slow, kept)

    inside = asyncio.Event()
    before = threading.active_count()
    user = asyncio.ensure_future(use())
    await inside.wait()
    user.cancel()
    await anyio.lowlevel.checkpoint()
    user.cancel()
    await asyncio.wait([user])

    assert user.cancelled()
    assert threading.active_count() == before
    store = SqliteStore.open(project, read_only=True)
    assert len(store.list_runs()) == 1
    store.close()


async def test_a_cancelled_anyio_scope_does_not_spin_while_leaving(project: Project) -> None:
    with anyio.move_on_after(0.05) as scope:
        async with StoreWriter(project) as writer:
            await writer.run(lambda store: store.create_run(new_run(), [], actor="cli"))
            await anyio.sleep_forever()

    assert scope.cancelled_caught


def test_a_loop_that_closed_meanwhile_harms_nobody(project: Project) -> None:
    go, done = threading.Event(), threading.Event()

    def late(store: RunStore) -> None:
        assert go.wait(30)
        store.create_run(new_run(), [], actor="cli")

    async def abandon() -> StoreWriter:
        writer = await StoreWriter(project).__aenter__()
        task = asyncio.ensure_future(writer.run(late))
        await asyncio.sleep(0)
        task.cancel()
        return writer

    async def resume(writer: StoreWriter) -> int:
        runs = await writer.run(lambda store: store.list_runs())
        await writer.__aexit__(None, None, None)
        done.set()
        return len(runs)

    writer = asyncio.run(abandon())
    go.set()
    assert asyncio.run(resume(writer)) == 1
    assert done.is_set()


async def test_subscribers_hear_every_event_in_order_before_its_writer_goes_on(
    writer: StoreWriter, lease: Lease
) -> None:
    heard: list[EventRecord] = []
    stop = writer.subscribe(heard.append)

    event = await writer.run(lambda store: note(store, lease, "one"))
    assert heard == [event]
    await asyncio.gather(
        *(writer.run(lambda store, n=n: note(store, lease, str(n))) for n in range(50))  # type: ignore[misc]
    )
    assert [each.seq for each in heard] == sorted(each.seq for each in heard)
    assert len(heard) == 51
    stop()
    await writer.run(lambda store: note(store, lease, "unheard"))
    assert len(heard) == 51


async def test_a_failing_subscriber_is_reported_and_keeps_nobody_from_hearing(
    writer: StoreWriter, lease: Lease
) -> None:
    reports: list[str] = []
    heard: list[EventRecord] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reports.append(str(context["exception"]))
    )

    def fails(_: EventRecord) -> None:
        raise ValueError("deaf")

    writer.subscribe(fails)
    writer.subscribe(heard.append)
    await writer.run(lambda store: note(store, lease, "one"))

    assert (reports, len(heard)) == (["deaf"], 1)


async def test_the_loop_is_never_blocked(tmp_path: Path) -> None:
    project = find_project(explicit=tmp_path)
    body = b"x" * 100_000

    with blockbuster_ctx():
        async with StoreWriter(project) as writer:
            writer.subscribe(lambda event: None)
            run = await writer.run(lambda store: store.create_run(new_run(), [new_task("one")], actor="c"))
            await asyncio.gather(
                *(writer.run(lambda store: store.put_artifact(run.id, "a", body)) for _ in range(10)),
                *(writer.read(lambda store: store.load_run(run.id)) for _ in range(10)),
            )


async def test_a_store_that_another_process_keeps_locked_does_not_stop_the_loop(
    writer: StoreWriter, lease: Lease, project: Project
) -> None:
    other = SqliteStore.open(project)
    with other.transaction():
        waiting = asyncio.ensure_future(writer.run(lambda store: note(store, lease, "late")))
        for _ in range(200):
            await anyio.lowlevel.checkpoint()
        assert (await writer.read(lambda store: store.load_run(lease.run_id))).state == RunState.RUNNING
        assert not waiting.done()
    with anyio.fail_after(20):
        await waiting
    other.close()


async def test_a_read_sees_one_moment(writer: StoreWriter, lease: Lease) -> None:
    loop = asyncio.get_running_loop()
    half_way, go = asyncio.Event(), threading.Event()

    def look(store: RunStore) -> tuple[int, int]:
        first = len(store.tail(None))
        loop.call_soon_threadsafe(half_way.set)
        assert go.wait(30)
        return first, len(store.tail(None))

    looking = asyncio.ensure_future(writer.read(look))
    await half_way.wait()
    await writer.run(lambda store: note(store, lease, "meanwhile"))
    go.set()
    first, second = await looking

    assert first == second


async def test_writing_through_a_read_is_refused(writer: StoreWriter, lease: Lease) -> None:
    with pytest.raises(StateUnwritable, match="read-only"):
        await writer.read(lambda store: note(store, lease, "sneaky"))

    assert await notes(writer, lease) == []


async def test_a_store_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    in_the_way = tmp_path / ".crew"
    in_the_way.write_text("a file", encoding="utf-8")
    async with StoreWriter(find_project(explicit=tmp_path)) as writer:
        with pytest.raises(StateUnwritable):
            await writer.run(lambda store: store.list_runs())
        in_the_way.unlink()
        assert await writer.run(lambda store: store.list_runs()) == []


async def test_following_shows_a_run_to_its_end(writer: StoreWriter, lease: Lease) -> None:
    async def go_on() -> None:
        for n in range(3):
            await writer.run(lambda store, n=n: note(store, lease, str(n)))  # type: ignore[misc]
        await writer.run(lambda store: store.transition_run(lease, RunState.CANCELLED, actor="cli"))

    with anyio.fail_after(30):
        async with asyncio.TaskGroup() as group:
            group.create_task(go_on())
            seen = [event async for event in follow(writer, lease.run_id)]

    assert seen == await writer.read(lambda store: store.tail(lease.run_id))
    assert seen[-1].type == "run.cancelled"
    later = [event async for event in follow(writer, lease.run_id, after_seq=seen[-2].seq)]
    assert later == seen[-1:]


async def test_following_ends_when_the_supervisor_dies(writer: StoreWriter) -> None:
    run = await writer.run(lambda store: store.create_run(new_run(), [], actor="cli"))
    with live_process() as owner:
        await writer.run(lambda store: store.claim(run.id, owner))

    with anyio.fail_after(30):
        seen = [event.type async for event in follow(writer, run.id)]

    assert seen == ["run.created", "run.claimed"]


FULL = """
import asyncio, resource, threading
from crew_plugin.errors import StateUnwritable
from crew_plugin.models.records import NewEvent
from crew_plugin.project import find_project
from crew_plugin.store.writer import StoreWriter
from tests.contracts.run_store import new_run
import sys

async def main():
    async with StoreWriter(find_project(explicit=sys.argv[1])) as writer:
        run = await writer.run(lambda store: store.create_run(new_run(), [], actor="cli"))
        note = [NewEvent(type="session.note", actor="x", data={"text": "y" * 3000})]
        append = lambda store: store.append_events(None, run.id, note)
        entered, go, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

        def hold(store):
            loop.call_soon_threadsafe(entered.set)
            go.wait(30)

        gate = asyncio.ensure_future(writer.run(hold))
        await entered.wait()
        group = [asyncio.ensure_future(writer.run(append)) for _ in range(40)]
        await asyncio.sleep(0)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        go.set()
        ended = await asyncio.gather(*group, return_exceptions=True)
        assert all(isinstance(each, StateUnwritable) for each in ended), ended
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await gate
        await writer.run(append)
        events = await writer.read(lambda store: store.tail(run.id))
        assert [event.type for event in events] == ["run.created", "session.note"], events

asyncio.run(main())
"""


def test_a_commit_that_the_disk_refuses_is_told_to_all_who_shared_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")


async def test_patient_operations_let_others_pass(writer: StoreWriter) -> None:
    begun, held = threading.Event(), threading.Event()
    done: list[str] = []

    def hold(_: RunStore) -> None:
        begun.set()
        held.wait(10)

    def say(word: str, _: RunStore) -> None:
        done.append(word)

    async with anyio.create_task_group() as group:
        group.start_soon(writer.run, hold)
        await anyio.to_thread.run_sync(begun.wait, 10)
        for n in range(20):
            group.start_soon(partial(writer.run, partial(say, f"patient {n}"), patient=True))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(writer.run, partial(say, "other"))
        await anyio.wait_all_tasks_blocked()
        held.set()

    assert done == ["other", *(f"patient {n}" for n in range(20))]


async def test_what_others_append_is_told_and_not_what_this_process_does(
    writer: StoreWriter, lease: Lease, project: Project
) -> None:
    def note(text: str) -> Callable[[RunStore], object]:
        event = NewEvent(type="session.note", actor="x", data={"text": text})
        return lambda store: store.append_events(None, lease.run_id, [event])

    heard: list[str] = []
    async with StoreWriter(project) as other, anyio.create_task_group() as group:

        async def listen() -> None:
            async for event in others(writer):
                heard[:] = [*heard, event.data["text"]]

        group.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            for number in range(3):
                await writer.run(note(f"mine {number}"))
                await other.run(note(f"theirs {number}"))
                while len(heard) <= number:
                    await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert heard == ["theirs 0", "theirs 1", "theirs 2"]
