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
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from crew_plugin.errors import HostUnsupported

__all__ = ["Nursery", "Worker"]

READY_SECONDS: Final = 60.0
"""How long a zygote may take to load its host."""
_END_SECONDS: Final = 2.0
_NO_START: Final = "the process that worker processes are forked from did not start"
_TRIES: Final = 5
"""Zygotes that one session waits for: whoever ends them again and again ends the session at last."""


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


class _ZygoteLost(ConnectionError):
    """Somebody ended the zygote: another one may do."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Zygote:
    """One zygote from its start to its end. Whoever waits for it holds on to this one: another may have
    taken its place meanwhile."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    ready: asyncio.Future[None]
    pending: deque[asyncio.Future[int]] = field(default_factory=deque[asyncio.Future[int]])
    """Orders without an answer, oldest first."""
    one_order: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Keeps the bytes of two orders apart."""
    lost: bool = False


class Nursery:
    """Starts workers. Use it inside `async with`, which ends the zygote."""

    def __init__(self, *, zygote: str, worker: str, forks: bool = sys.platform == "linux") -> None:
        """`zygote` and `worker` are modules to be run; with `forks` false each worker is started from
        nothing, which takes seconds."""
        self._module = zygote
        self._worker = worker
        self._forks = forks
        self._zygote: _Zygote | None = None
        self._workers: dict[int, Worker] = {}
        self._watching: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Nursery":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._zygote is not None and not self._zygote.lost:
            # It ends by itself: its socket is at its end. So is ours, which ends the watch over it.
            self._zygote.control.shutdown(socket.SHUT_RDWR)
        while self._watching:
            await asyncio.wait(self._watching)

    def warm(self) -> None:
        """Begin to load the host, so that the first worker does not wait for it."""
        if self._forks:
            with suppress(OSError):
                self._living()

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
        tries = 0
        while True:
            tries += 1
            try:
                return await self._ask(self._living(), theirs, environment, cwd)
            except OSError as error:
                if tries == _TRIES:
                    raise HostUnsupported(f"worker processes cannot be forked: {error}") from error

    async def _ask(
        self, zygote: _Zygote, theirs: socket.socket, environment: Mapping[str, str], cwd: str
    ) -> int:
        await asyncio.shield(zygote.ready)
        order = json.dumps({"environment": dict(environment), "cwd": cwd}).encode() + b"\n"
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        head = len(order).to_bytes(4, "big")
        async with zygote.one_order:
            if zygote.lost:
                raise _ZygoteLost("the zygote is gone")
            # Small enough for the socket's buffer: the call does not wait.
            socket.send_fds(zygote.control, [head], [theirs.fileno()])
            zygote.pending.append(answer)
            await asyncio.get_running_loop().sock_sendall(zygote.control, order)
        return await answer

    def _living(self) -> _Zygote:
        """The zygote, or a new one in the place of one that was lost."""
        if self._zygote is None or self._zygote.lost:
            self._zygote = self._started()
            self._watch_over(self._listen(self._zygote), f"crew zygote {self._zygote.process.pid}")
        return self._zygote

    def _started(self) -> _Zygote:
        ours, theirs = socket.socketpair()
        try:
            # Started by the loop's own thread: the system's notice of a parent's death is for threads.
            process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ready.add_done_callback(lambda done: done.exception())  # nobody may be waiting
        return _Zygote(process=process, control=ours, ready=ready)

    async def _listen(self, zygote: _Zygote) -> None:
        """What the zygote tells: that it is ready, pids of those that were forked, and how each ended."""
        rest = b""
        try:
            async with asyncio.timeout(READY_SECONDS) as limit:
                while piece := await _received(zygote.control):
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        if zygote.ready.done():
                            self._told(zygote, json.loads(line))
                        else:
                            zygote.ready.set_result(None)
                            limit.reschedule(None)
        except TimeoutError:
            zygote.ready.set_exception(HostUnsupported(_NO_START))
            zygote.process.kill()
        zygote.lost = True
        zygote.control.close()
        code = await asyncio.to_thread(_reap, zygote.process)
        if not zygote.ready.done():
            zygote.ready.set_exception(_ZygoteLost(_NO_START) if code < 0 else HostUnsupported(_NO_START))
        for answer in zygote.pending:
            if not answer.done():
                answer.set_exception(_ZygoteLost("the zygote is gone"))

    def _told(self, zygote: _Zygote, news: Mapping[str, Any]) -> None:
        if "forked" in news:
            answer = zygote.pending.popleft()
            if not answer.done():
                answer.set_result(int(news["forked"]))
            return
        if "refused" in news:
            answer = zygote.pending.popleft()
            if not answer.done():
                answer.set_exception(OSError(str(news["refused"])))
            return
        worker = self._workers.get(int(news["ended"]))
        if worker is not None:
            worker.status = int(news["status"])
            worker.ended.set()

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


async def _received(control: socket.socket) -> bytes:
    """What comes next; nothing at the end, however that came."""
    try:
        return await asyncio.get_running_loop().sock_recv(control, 65536)
    except OSError:
        return b""


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; it is killed if it does not end."""
    try:
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
