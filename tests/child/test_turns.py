"""The provider gates of a supervisor, and the model calls of its workers at them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.child import protocol
from crew_plugin.child.turns import FarGates, Turns
from crew_plugin.engine.provider_gate import ProviderGate, ProviderGates, Refused, Urgency, Verdict
from crew_plugin.errors import EngineError

pytestmark = pytest.mark.anyio


class Worker:
    """A worker's side and its supervisor's, joined by two queues of lines."""

    def __init__(self, gates: ProviderGates) -> None:
        self._to_worker: asyncio.Queue[bytes] = asyncio.Queue()
        self._to_supervisor: asyncio.Queue[bytes] = asyncio.Queue()
        self.turns = Turns(gates, lambda message: self._to_worker.put_nowait(protocol.encode(message)))
        self.far = FarGates(lambda message: self._to_supervisor.put_nowait(protocol.encode(message)))
        self.gate = self.far.gate("openai", None, "key")
        self._alive = anyio.CancelScope()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Worker"]:
        async with anyio.create_task_group() as group:
            group.start_soon(self._supervise)
            group.start_soon(self._work)
            yield self
            group.cancel_scope.cancel()

    def die(self) -> None:
        """As the supervisor sees it."""
        self._alive.cancel()

    async def _supervise(self) -> None:
        try:
            with self._alive:
                async with anyio.create_task_group() as calls:
                    while True:
                        match protocol.decode(await self._to_supervisor.get()):
                            case protocol.Acquire() as asked:
                                calls.start_soon(self.turns.wait, self.turns.joined(asked))
                            case protocol.Release() as ended:
                                self.turns.release(ended)
                            case _:
                                raise NotImplementedError
        finally:
            self.turns.give_back()

    async def _work(self) -> None:
        while True:
            match protocol.decode(await self._to_worker.get()):
                case protocol.Queued() | protocol.Granted() | protocol.Refusing() as told:
                    self.far.told(told)
                case _:
                    raise NotImplementedError


@asynccontextmanager
async def workers(gates: ProviderGates, count: int) -> AsyncIterator[list[Worker]]:
    with anyio.fail_after(5):
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(Worker(gates).running()) for _ in range(count)]


def here(gates: ProviderGates) -> ProviderGate:
    """The gate that all of them mean."""
    return gates.gate("openai", None, "key")


def quiet(ahead: int) -> None:
    assert ahead >= 0


async def until_free(gate: ProviderGate) -> None:
    """Wait until nothing is under way at the gate."""
    while gate.flow.held:
        await anyio.lowlevel.checkpoint()


async def until_queued(gate: ProviderGate, count: int) -> None:
    """Wait until so many calls wait."""
    while len(gate.flow.waiting()) < count:
        await anyio.lowlevel.checkpoint()


async def test_workers_and_sessions_here_share_one_gate() -> None:
    gates = ProviderGates(start=1, ceiling=1)
    async with workers(gates, 2) as (first, second):
        mine = first.gate.place()
        await first.gate.acquire(mine, quiet, losses=3)
        ahead: list[int] = []
        with anyio.move_on_after(0.05):
            await second.gate.acquire(second.gate.place(), ahead.append, losses=3)
            raise NotImplementedError
        assert ahead == [1]
        assert here(gates).flow.held == 1
        first.gate.release(mine, Verdict.SERVED)
        place = here(gates).place()
        await here(gates).acquire(place, quiet, losses=3)
        here(gates).release(place, Verdict.SERVED)
    assert here(gates).flow.held == 0
    assert here(gates).flow.waiting() == []


async def test_a_refusal_in_one_worker_is_a_pause_for_the_others() -> None:
    gates = ProviderGates(start=8, ceiling=8)
    async with workers(gates, 2) as (first, second):
        mine = first.gate.place()
        await first.gate.acquire(mine, quiet, losses=3)
        first.gate.release(mine, Refused(60.0))
        told = await first.gate.standing(mine)
        assert (told.losses, told.pause >= 60.0) == (1, True)
        with anyio.move_on_after(0.05):
            await second.gate.acquire(second.gate.place(), quiet, losses=3)
            raise NotImplementedError


async def test_a_session_near_its_end_goes_before_those_of_other_workers() -> None:
    gates = ProviderGates(start=1, ceiling=1)
    order: list[str] = []
    async with workers(gates, 3) as (first, second, third):
        mine = first.gate.place()
        await first.gate.acquire(mine, quiet, losses=3)

        async def call(worker: Worker, name: str, urgency: Urgency) -> None:
            place = worker.gate.place(urgency)
            await worker.gate.acquire(place, quiet, losses=3)
            order.append(name)
            worker.gate.release(place, Verdict.SERVED)

        async with anyio.create_task_group() as group:
            group.start_soon(call, second, "ordinary", Urgency.ORDINARY)
            await until_queued(here(gates), 1)
            group.start_soon(call, third, "last", Urgency.LAST)
            await until_queued(here(gates), 2)
            first.gate.release(mine, Verdict.SERVED)
    assert order == ["last", "ordinary"]


async def test_a_worker_that_dies_gives_back_what_it_held_and_waited_for() -> None:
    gates = ProviderGates(start=1, ceiling=1)
    async with workers(gates, 2) as (first, second):
        await first.gate.acquire(first.gate.place(), quiet, losses=3)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: first.gate.acquire(first.gate.place(), quiet, losses=3))
            await until_queued(here(gates), 1)
            first.die()
            await second.gate.acquire(second.gate.place(), quiet, losses=3)
            assert here(gates).flow.waiting() == []
            group.cancel_scope.cancel()
        second.die()
        await until_free(here(gates))


async def test_a_wait_that_is_cancelled_as_it_ends_holds_nothing() -> None:
    gates = ProviderGates(start=1, ceiling=1)
    async with workers(gates, 1) as (worker,):
        place = here(gates).place()
        await here(gates).acquire(place, quiet, losses=3)
        waiting = asyncio.create_task(worker.gate.acquire(worker.gate.place(), quiet, losses=3))
        await until_queued(here(gates), 1)
        here(gates).release(place, Verdict.SERVED)  # it is granted, and the worker has not heard of it yet
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await until_free(here(gates))
        assert here(gates).flow.waiting() == []


async def test_a_call_that_is_given_up_at_once_holds_nothing() -> None:
    gates = ProviderGates(start=1, ceiling=1)
    async with workers(gates, 1) as (worker,):
        waiting = asyncio.create_task(worker.gate.acquire(worker.gate.place(), quiet, losses=3))
        await asyncio.sleep(0)  # it has asked; nobody has read that yet
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await worker.gate.acquire(worker.gate.place(), quiet, losses=3)
        assert here(gates).flow.held == 1


async def test_a_worker_is_told_of_a_provider_that_takes_nobody() -> None:
    gates = ProviderGates(start=1, ceiling=1)
    async with workers(gates, 1) as (worker,):
        place = worker.gate.place()
        for _ in range(2):
            await worker.gate.acquire(place, quiet, losses=1)
            worker.gate.release(place, Refused(0.0))
        with pytest.raises(EngineError, match="refused every request, 2 times in a row") as failed:
            await worker.gate.acquire(place, quiet, losses=1)
    assert (failed.value.kind, failed.value.retryable) == ("rate_limit", True)


async def test_nobody_waits_for_a_supervisor_that_is_gone() -> None:
    async with workers(ProviderGates(start=1, ceiling=1), 1) as (worker,):
        place = worker.gate.place()
        await worker.gate.acquire(place, quiet, losses=3)
        waiting = asyncio.create_task(worker.gate.acquire(worker.gate.place(), quiet, losses=3))
        worker.gate.release(place, Refused(60.0))
        worker.far.lost()
        assert (await worker.gate.standing(place)).pause == 0.0
        with pytest.raises(EngineError, match="supervisor is gone"):
            await waiting
        with pytest.raises(EngineError, match="supervisor is gone"):
            await worker.gate.acquire(worker.gate.place(), quiet, losses=3)


async def test_a_call_that_asks_twice_at_once_is_a_fault() -> None:
    turns = Turns(ProviderGates(start=1, ceiling=1), lambda message: None)
    asked = protocol.Acquire(place=1, gate="g", urgency=0, losses=1)
    turns.joined(asked)
    with pytest.raises(protocol.ProtocolError):
        turns.joined(asked)
