"""Sessions in worker processes, forked warm: start, processor time and memory of each.

Usage: child_case.py URL N WARM. Prints {"wall", "got", "started", "cpu_each", "uss_each"}: seconds of
processor time of one worker, and MB that it shares with nobody while it works.
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from bench.cases.crew_case import AGENT


class Looks:
    """Looks at the workers again and again while they work."""

    def __init__(self) -> None:
        self.uss: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Looks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for process in workers():
                try:
                    uss = process.memory_full_info().uss / 1e6
                except psutil.Error:
                    continue
                self.uss[process.pid] = max(uss, self.uss.get(process.pid, 0.0))


def zygote() -> psutil.Process:
    """The process that workers are forked from."""
    (found,) = [
        child for child in psutil.Process().children() if "crew_hooks.bub.zygote" in " ".join(child.cmdline())
    ]
    return found


def workers() -> list[psutil.Process]:
    """The workers that are there now."""
    try:
        return zygote().children()
    except (psutil.Error, ValueError):
        return []


def spent() -> float:
    """Processor seconds of all workers that have ended."""
    times = zygote().cpu_times()
    return float(times.children_user + times.children_system)


async def main(url: str, count: int, warm: int) -> dict[str, float]:
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
            spec = spec.model_copy(update={"runtime_requested": "child-process"})
            run = await crew.supervisor.submit(spec, parent=None, background=False, actor="bench")
            await crew.supervisor.execute(run.id)
            results = await crew.writer.read(lambda store: store.list_results(run.id))
            return len({result.summary for result in results})

        await batch(range(9000, 9000 + warm))
        before = spent()
        started, wall = time.monotonic(), time.perf_counter()
        with Looks() as looks:
            got = await batch(range(count))
        wall = time.perf_counter() - wall
        return {
            "wall": wall,
            "got": got,
            "started": started,
            "cpu_each": (spent() - before) / count,
            "uss_each": sum(looks.uss.values()) / max(1, len(looks.uss)),
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
        }
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
        url, count, warm = sys.argv[1:]
        print(json.dumps(asyncio.run(main(url, int(count), int(warm)))))
