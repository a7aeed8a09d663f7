"""What it costs a worker that the gates of the providers are its supervisor's.

Usage: gate_case.py COUNT. Prints {"turn"}: seconds, in the median, from asking for the turn of a
request until the request may be made, at a gate where nobody waits.
"""

import asyncio
import json
import os
import socket
import statistics
import sys
import time

from crew_plugin.child import protocol
from crew_plugin.child.turns import FarGates, Turns
from crew_plugin.child.wire import Wire
from crew_plugin.engine.provider_gate import ProviderGates, Verdict


async def supervise(connection: socket.socket) -> None:
    """Let the worker through, as an engine does."""
    wire = await Wire.over(connection)
    turns = Turns(ProviderGates(start=128, ceiling=1024), wire.send)
    async with asyncio.TaskGroup() as calls:
        async for message in wire.messages():
            match message:
                case protocol.Acquire():
                    calls.create_task(turns.wait(turns.joined(message)))
                case protocol.Release():
                    turns.release(message)
                case _:
                    raise NotImplementedError
    await wire.close()


async def work(connection: socket.socket, count: int) -> float:
    """Ask again and again."""
    wire = await Wire.over(connection)
    gates = FarGates(wire.send)
    gate = gates.gate("openai", None, "key")

    async def listen() -> None:
        async for message in wire.messages():
            match message:
                case protocol.Queued() | protocol.Granted() | protocol.Refusing():
                    gates.told(message)
                case _:
                    raise NotImplementedError

    listening = asyncio.create_task(listen())
    taken: list[float] = []
    for _ in range(count):
        place = gate.place()
        begun = time.perf_counter()
        await gate.acquire(place, lambda _: None, losses=1)
        taken.append(time.perf_counter() - begun)
        gate.release(place, Verdict.SERVED)
        await asyncio.sleep(0.001)  # a request takes its time, and meanwhile both sides are idle
    await wire.close()
    await asyncio.wait({listening})
    return statistics.median(taken)


def main(count: int) -> None:
    """A supervisor in a process of its own, and the worker here."""
    ours, theirs = socket.socketpair()
    protocol.warm()
    pid = os.fork()
    if pid == 0:
        ours.close()
        asyncio.run(supervise(theirs))
        os._exit(0)
    theirs.close()
    print(json.dumps({"turn": asyncio.run(work(ours, count))}))
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
