"""A process that supervises one run until it ends or dies: `supervising.py PROJECT`.

Task `quick` submits at once, every other one goes on until it is told to stop. Prints the run's
id when the last of them has begun.
"""

import sys
from pathlib import Path

import anyio

from crew_plugin.engine.ports import Outcome
from crew_plugin.project import Project
from crew_plugin.testing.fake_runner import FakeAttempt, hangs, submits
from tests.engine.bench import open_bench, spec_of, step


async def main(root: Path) -> None:
    project = Project(root=root, state_dir=root / "state")
    printed = False

    async def announces(attempt: FakeAttempt) -> Outcome:
        nonlocal printed
        if not printed:
            printed = True
            print(attempt.context.run.id, flush=True)
        return await hangs()(attempt)

    async with open_bench(project, {"quick": submits("kept")}, default=announces) as bench:
        run = await bench.submit(spec_of(step("quick"), step("slow", "quick"), step("last", "slow")))
        ended = await bench.supervisor.execute(run.id)
        print(ended.state, flush=True)


anyio.run(main, Path(sys.argv[1]))
