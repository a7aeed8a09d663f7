"""Where workers come from: forked by a zygote that has loaded the host, or started from nothing.

The zygote is a process of one thread without a store or an event loop. It is reached over a socket pair
that no other process can open; a fork takes a line, and the worker's own socket with it. It ends when its
supervisor does, for then the socket is at its end; so does every worker, by its own socket.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from crew_plugin.errors import HostUnsupported

__all__ = ["Nursery", "Worker"]

READY_SECONDS: Final = 60.0
"""How long a zygote may take to load its host."""
_END_SECONDS: Final = 2.0


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """A worker process."""

    pid: int
    connection: socket.socket
    """The supervisor's end of its socket."""
    forked: bool
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    status: int | None = None
    """Of its end, as the system gives it; None where nobody told."""

    @property
    def how(self) -> str:
        """How it ended, for a person."""
        if self.status is None:
            return "is gone, and nobody saw how"
        code = os.waitstatus_to_exitcode(self.status)
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"was killed by signal {-code} ({name})"


class Nursery:
    """Starts workers. Use it inside `async with`, which ends the zygote."""

    def __init__(self, *, zygote: str, worker: str, forks: bool = sys.platform == "linux") -> None:
        """`zygote` and `worker` are modules to be run; with `forks` false each worker is started from
        nothing, which takes seconds."""
        self._zygote = zygote
        self._worker = worker
        self._forks = forks
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._pending: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()
        self._one_order = asyncio.Lock()
        """Keeps the bytes of two orders apart."""
        self._workers: dict[int, Worker] = {}
        self._watching: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Nursery":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._starting, self._listening):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
        self._forget()
        while self._watching:
            await asyncio.wait(self._watching)

    def warm(self) -> None:
        """Begin to load the host, so that the first worker does not wait for it."""
        if self._forks and (self._starting is None or (self._process is not None and self._dead())):
            self._forget()
            self._starting = asyncio.create_task(self._start_zygote(), name="crew zygote")

    async def start(self, environment: Mapping[str, str], cwd: str) -> Worker:
        """A new worker. Raises `HostUnsupported` if none can be had."""
        ours, theirs = socket.socketpair()
        try:
            if self._forks:
                pid = await self._fork(theirs, environment, cwd)
            else:
                pid = await self._spawn(theirs, environment, cwd)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = self._workers.get(pid)
        if worker is None:
            worker = self._workers[pid] = Worker(pid=pid, connection=ours, forked=self._forks)
        return worker

    def gone(self, worker: Worker) -> None:
        """Nobody asks about this worker any more."""
        self._workers.pop(worker.pid, None)

    # --- forking ---

    async def _fork(self, theirs: socket.socket, environment: Mapping[str, str], cwd: str) -> int:
        for again in (False, True):
            self.warm()
            assert self._starting is not None
            await asyncio.shield(self._starting)
            try:
                return await self._ask(theirs, environment, cwd)
            except OSError as error:
                self._forget()
                self._starting = None
                if again:
                    raise HostUnsupported(f"worker processes cannot be forked: {error}") from error
        raise AssertionError("the second try returns or raises")

    async def _ask(self, theirs: socket.socket, environment: Mapping[str, str], cwd: str) -> int:
        control = self._control
        if control is None:
            raise ConnectionError("the zygote is gone")
        order = json.dumps({"environment": dict(environment), "cwd": cwd}).encode() + b"\n"
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        head = len(order).to_bytes(4, "big")
        async with self._one_order:
            # Small enough for the socket's buffer: the call does not wait.
            socket.send_fds(control, [head], [theirs.fileno()])
            self._pending.put_nowait(answer)
            await asyncio.get_running_loop().sock_sendall(control, order)
        return await answer

    async def _start_zygote(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            # Started by the loop's own thread: the system's notice of a parent's death is for threads.
            self._process = subprocess.Popen(  # noqa: ASYNC220 - see above
                [sys.executable, "-m", self._zygote, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            theirs.close()
        ours.setblocking(False)
        self._control = ours
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READY_SECONDS):
                line = await loop.sock_recv(ours, 64)
        except TimeoutError:
            line = b""
        if not line.startswith(b"ready"):
            self._forget()
            raise HostUnsupported("the process that worker processes are forked from did not start")
        self._listening = asyncio.create_task(self._listen(ours), name="crew zygote control")

    async def _listen(self, control: socket.socket) -> None:
        """What the zygote tells: pids of those that were forked, and how each ended."""
        loop, rest = asyncio.get_running_loop(), b""
        while True:
            try:
                piece = await loop.sock_recv(control, 65536)
            except OSError:
                piece = b""
            if not piece:
                break
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._told(json.loads(line))
        while not self._pending.empty():
            answer = self._pending.get_nowait()
            if not answer.done():
                answer.set_exception(ConnectionError("the zygote is gone"))
        if self._control is control:
            control.close()
            self._control = None

    def _told(self, news: Mapping[str, Any]) -> None:
        if "forked" in news:
            answer = self._pending.get_nowait()
            if not answer.done():
                answer.set_result(int(news["forked"]))
            return
        if "refused" in news:
            answer = self._pending.get_nowait()
            if not answer.done():
                answer.set_exception(OSError(str(news["refused"])))
            return
        worker = self._workers.get(int(news["ended"]))
        if worker is not None:
            worker.status = int(news["status"])
            worker.ended.set()

    def _dead(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        process, self._process = self._process, None
        if process is not None:
            # It ends by itself: its socket is at its end.
            self._watch_over(asyncio.to_thread(_reap, process), f"crew zygote {process.pid}")

    def _watch_over(self, waiting: Coroutine[Any, Any, None], name: str) -> None:
        watch = asyncio.create_task(waiting, name=name)
        self._watching.add(watch)
        watch.add_done_callback(self._watching.discard)

    # --- starting from nothing ---

    async def _spawn(self, theirs: socket.socket, environment: Mapping[str, str], cwd: str) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", self._worker, str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            cwd=cwd,
            env=dict(environment),
            start_new_session=True,
        )
        self._watch_over(self._watch(process), f"crew worker {process.pid}")
        return process.pid

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        worker = self._workers.get(process.pid)
        if worker is not None:
            worker.status = -code if code < 0 else code << 8
            worker.ended.set()


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
