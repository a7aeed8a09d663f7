"""What workers are forked from: `python -m crew_hooks.bub.zygote FD`.

Loads Bub, its plugins and what a session needs, once; then forks on order. One thread, no event loop, no
store: nothing that a fork would tear in two. An order is four bytes of length with the worker's socket,
then as much JSON.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
import traceback
from types import FrameType
from typing import Any, Final

__all__ = ["main"]

_LATE: Final = ("anyio._backends._asyncio", "any_llm.providers.registry", "concurrent.futures.thread")
"""What a session would import at its first use."""
_DIE_WITH_PARENT: Final = 1
"""PR_SET_PDEATHSIG of Linux."""


def main(descriptor: int) -> int:
    """Load, say so, and fork until the supervisor is gone."""
    _die_with_the_supervisor()
    # Its workers inherit it: whoever interrupts one of these processes ends it, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    control = socket.socket(fileno=descriptor)
    from crew_hooks.bub.parts import import_parts, loading

    with loading():
        from crew_hooks.bub import worker
        from crew_hooks.bub.clients import built_clients
        from crew_hooks.bub.compat.runner import usual_clients
        from crew_plugin.child import protocol
        from crew_plugin.child.sharing import keep_shared

        framework = worker.load_framework()
        import_parts("crew_hooks.bub.lean", *_LATE)
        built = built_clients(usual_clients)
        protocol.warm()
    # What is loaded is not looked at again and, where that can be had, not counted either: both would
    # copy its pages into every worker.
    keep_shared()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, _ignored)
    try:
        control.sendall(b"ready\n")
        while True:
            readable, _, _ = select.select([control.fileno(), wake], [], [])
            if wake in readable:
                _drain(wake)
                _tell_ends(control)
            if control.fileno() in readable and not _obey(control, (wake, woken), (framework, built)):
                return 0
    except ConnectionError:
        return 0  # the supervisor has gone without reading everything


def _obey(control: socket.socket, pipe: tuple[int, int], loaded: tuple[Any, Any]) -> bool:
    """Carry out one order. False if the supervisor is gone."""
    head, descriptors, _, _ = socket.recv_fds(control, 4, 1)
    if len(head) < 4 or not descriptors:
        return False
    order = json.loads(_exactly(control, int.from_bytes(head, "big")))
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if threads > 1:
        control.sendall(json.dumps({"refused": f"it has {threads} threads"}).encode() + b"\n")
        os.close(descriptors[0])
        return True
    pid = os.fork()
    if pid == 0:
        os._exit(_become_a_worker(control, pipe, descriptors[0], order, loaded))
    os.close(descriptors[0])
    control.sendall(json.dumps({"forked": pid}).encode() + b"\n")
    return True


def _become_a_worker(
    control: socket.socket,
    pipe: tuple[int, int],
    descriptor: int,
    order: dict[str, Any],
    loaded: tuple[Any, Any],
) -> int:
    code = 1
    try:
        control.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in pipe:
            os.close(end)
        os.setsid()
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["cwd"])
        from crew_hooks.bub import worker

        code = worker.serve(socket.socket(fileno=descriptor), *loaded)
    except BaseException:  # noqa: BLE001 - this process ends here, and its parent's stack is none of its own
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
    return code


def _tell_ends(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        control.sendall(json.dumps({"ended": pid, "status": status}).encode() + b"\n")


def _exactly(control: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = control.recv(min(size, 65536))
        if not part:
            raise ConnectionError("the supervisor left in the middle of an order")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 512):
            pass
    except BlockingIOError:
        return


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """The wakeup is what counts."""


def _die_with_the_supervisor() -> None:
    """On Linux at once; everywhere when the control socket is at its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
