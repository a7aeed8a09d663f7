"""The same work as live sessions of the crew inside a real Bub, durability on.

Usage: crew_case.py URL N WARM [callbacks]. Prints {"wall", "cpu", "got", "started", "memory"}:
`started` is `time.monotonic()` when the parent's tool would be called, to be compared with the
server's first request; `memory` is how much the process grew, in MB. With `callbacks` also how
long the longest callback of the loop took; that makes the other figures a little worse.
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

AGENT = """---
name: bench-worker
description: Reads one file and hands in what its task asks for.
tools: [read]
---
Read the file that the task names, then submit the result.
"""


def memory() -> float:
    """The peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main(url: str, count: int, warm: int, *, callbacks: bool = False) -> dict[str, float]:
    from bench.cases.callbacks import Longest, timed_callbacks
    from crew_hooks.bub.host import host_crew
    from crew_plugin.config import load_settings
    from crew_plugin.engine.plan import ParallelTask, plan_parallel
    from crew_plugin.project import find_project

    root = Path.cwd()
    (root / "README.md").write_text("# a file\n", encoding="utf-8")
    agents = root / ".crew" / "agents"
    agents.mkdir(parents=True)
    (agents / "bench-worker.md").write_text(AGENT, encoding="utf-8")
    project = find_project(root)
    settings = load_settings(root)
    async with host_crew(project, settings) as crew:

        async def batch(numbers: range) -> int:
            tasks = [
                ParallelTask(goal=f"read README.md and report, token-{n:04d}", agent="bench-worker")
                for n in numbers
            ]
            spec = plan_parallel(
                await crew.catalog(), settings, tasks=tasks, cwd=str(root), width=len(numbers)
            )
            run = await crew.supervisor.submit(spec, parent=None, background=False, actor="bench")
            await crew.supervisor.execute(run.id)
            results = await crew.writer.read(lambda store: store.list_results(run.id))
            return len({result.summary for result in results})

        await batch(range(9000, 9000 + warm))
        before = memory()
        started, wall, cpu = time.monotonic(), time.perf_counter(), time.process_time()
        with timed_callbacks() if callbacks else nullcontext(Longest()) as longest:
            got = await batch(range(count))
        if longest.what:
            print(f"longest callback: {longest.what}", file=sys.stderr)
        return {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "got": got,
            "started": started,
            "memory": memory() - before,
            "longest": longest.cpu,
            "longest_wall": longest.wall,
        }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="crew-bench-") as folder:
        os.chdir(folder)
        os.environ |= {
            "BUB_HOME": f"{folder}/bub",
            "BUB_MODEL": "openai:scripted",
            "BUB_API_KEY": "test",
            "BUB_API_BASE": sys.argv[1],
            "CREW_LIMITS__PROCESS_SESSIONS": "1000",
            "CREW_LIMITS__WIDTH": "1000",
            "CREW_PROVIDER__START_REQUESTS": "1000",
        }
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
        url, count, warm, *more = sys.argv[1:]
        print(json.dumps(asyncio.run(main(url, int(count), int(warm), callbacks="callbacks" in more))))
