"""Real processes for tests of the store."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from crew_plugin.models.records import Owner

ROOT = Path(__file__).resolve().parents[2]

_TELL = """
import json, sys
from crew_plugin.store.liveness import current_owner
owner = current_owner()
print(json.dumps([owner.pid, owner.started, owner.boot_id]), flush=True)
sys.stdin.read()
"""


def environment() -> dict[str, str]:
    """Lets a child import what this process can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


@contextmanager
def live_process() -> Generator[Owner]:
    """A process that lives until the block is left."""
    with subprocess.Popen(
        [sys.executable, "-c", _TELL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        pid, started, boot_id = json.loads(process.stdout.readline())
        try:
            yield Owner(pid=pid, started=started, boot_id=boot_id)
        finally:
            process.kill()


def dead_process() -> Owner:
    """A process that has ended."""
    with live_process() as owner:
        pass
    return owner
