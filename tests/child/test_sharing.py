"""What a forked process has of its own, by real forks of processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

import crew_plugin
from crew_plugin.child.sharing import keep_shared

SCRIPT = """
import gc, os, sys, weakref
from crew_plugin.child.sharing import keep_shared

things = [{"number": number} for number in range(100_000)]
shared = keep_shared() if sys.argv[1] == "shared" else False

def dirty():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

if os.fork() == 0:
    before = dirty()
    for thing in things:
        pass  # takes a reference and drops it
    print(shared, dirty() - before, flush=True)

    class New:
        pass

    single, circle = New(), New()
    circle.itself = circle
    seen = [weakref.ref(single), weakref.ref(circle)]
    del single, circle
    gc.collect()
    print([one() for one in seen], flush=True)
    os._exit(0)
os.wait()
"""


def forked(how: str) -> tuple[str, int, str]:
    """Whether things are shared, the KB that looking at them cost, and what of new things is left."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        env={"PYTHONPATH": str(Path(crew_plugin.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    facts, left = done.stdout.splitlines()
    shared, cost = facts.split()
    return shared, int(cost), left


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_looking_at_what_is_shared_copies_nothing_and_new_things_are_still_freed() -> None:
    _, copied, _ = forked("copied")
    shared, cost, left = forked("shared")
    assert shared == "True"
    assert copied > 4_000  # what it costs otherwise: 100,000 dicts lie on so many pages
    assert cost < copied / 10
    assert left == "[None, None]"


def test_a_python_that_is_not_known_is_left_alone() -> None:
    thing = ["not counted by the interpreter"]
    before = sys.getrefcount(thing)
    assert not keep_shared(version=(3, 99))
    more = [thing] * 10
    assert sys.getrefcount(thing) == before + len(more)
