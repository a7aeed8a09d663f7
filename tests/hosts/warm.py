"""Zygotes that need not load Bub: each is forked from one process that has imported it for all of them.

`python -m tests.hosts.warm FD` takes the place of `crew_hooks.bub.zygote`, and does nothing but ask for such
a fork. What is forked goes through all that a zygote does, only that its imports are there already: a tenth
of its processor time. How one starts from nothing is tested by those that use the real one.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["WHERE", "warm_zygotes"]

WHERE: Final = "TESTS_WARM_ZYGOTES"
"""The variable that names the socket at which forks are asked for."""
_END_SECONDS: Final = 30.0


@contextmanager
def warm_zygotes(folder: Path) -> Iterator[str]:
    """The process that forks, for as long as the block lasts: the name of its socket."""
    name = str(folder / "forks")
    command = [sys.executable, "-m", __name__, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as mother:
        assert mother.stdout is not None
        assert mother.stdout.readline() == b"ready\n"
        yield name
        mother.communicate(timeout=_END_SECONDS)  # it ends when its input does


def _forks(name: str) -> None:
    """Import what every zygote does, and fork on request until the tests are over."""
    from importlib.metadata import entry_points

    from crew_hooks.bub import parts, zygote

    for plugin in entry_points(group="bub"):
        plugin.load()
    parts.import_parts("crew_hooks.bub.lean", "bub.builtin.hook_impl", *zygote._LATE)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps what was forked
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while sys.stdin not in select.select([sys.stdin, listening], [], [])[0]:
            asked, _ = listening.accept()
            with asked:
                if os.fork() == 0:
                    listening.close()
                    os._exit(_become_a_zygote(asked, zygote.main))


def _become_a_zygote(asked: socket.socket, main: Any) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 1)
    wanted = json.loads(text)
    os.setsid()
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["cwd"])
    return int(main(descriptors[0]))


def _ask(descriptor: int) -> None:
    """Have one forked that serves this socket, and end when it does."""
    with socket.socket(socket.AF_UNIX) as mother:
        mother.connect(os.environ[WHERE])
        wanted = {"environment": dict(os.environ), "cwd": os.getcwd()}
        socket.send_fds(mother, [json.dumps(wanted).encode()], [descriptor])
        os.close(descriptor)
        mother.recv(1)


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        _ask(int(sys.argv[1]))
    else:
        _forks(sys.argv[1])
