"""Going on with a run of N tasks whose process was killed in the middle.

Usage: recovery_case.py URL N. Prints {"resumed", "wall", "got"}: seconds from taking the run over until every
attempt that was open goes on, and until the run has ended.
"""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.cases.crew_case import AGENT


async def begin(root: Path, count: int) -> None:
    """Start the run and go on until killed."""
    from crew_hooks.bub.host import host_crew
    from crew_plugin.config import load_settings
    from crew_plugin.engine.plan import ParallelTask, plan_parallel
    from crew_plugin.project import find_project

    settings = load_settings(root)
    async with host_crew(find_project(root), settings) as crew:
        tasks = [
            ParallelTask(goal=f"read README.md and report, token-{n:04d}", agent="bench-worker")
            for n in range(count)
        ]
        spec = plan_parallel(await crew.catalog(), settings, tasks=tasks, cwd=str(root), width=count)
        run = await crew.supervisor.submit(spec, parent=None, background=False, actor="bench")

        def saw(event: object) -> None:
            if getattr(event, "type", "") == "session.tool_ended":
                seen.append(event)
                if len(seen) == count:
                    os.kill(os.getpid(), signal.SIGKILL)

        seen: list[object] = []
        crew.writer.subscribe(saw)
        await crew.supervisor.execute(run.id)


async def go_on(root: Path, count: int) -> dict[str, float]:
    """Take it over, and time that."""
    from crew_hooks.bub.host import host_crew
    from crew_plugin.config import load_settings
    from crew_plugin.project import find_project

    async with host_crew(find_project(root), load_settings(root)) as crew:
        resumed: list[float] = []

        def saw(event: object) -> None:
            if getattr(event, "type", "") == "attempt.resumed":
                resumed.append(time.perf_counter())

        crew.writer.subscribe(saw)
        run = await crew.writer.read(lambda store: store.load_run("last"))
        begun = time.perf_counter()
        await crew.supervisor.adopt(run.id)
        await crew.supervisor.execute(run.id)
        wall = time.perf_counter() - begun
        results = await crew.writer.read(lambda store: store.list_results(run.id))
        return {
            "resumed": max(resumed) - begun,
            "wall": wall,
            "got": len({result.summary for result in results}),
        }


def main(url: str, count: int) -> None:
    """Both, the first in a process that is killed."""
    with tempfile.TemporaryDirectory(prefix="crew-bench-") as folder:
        root = Path(folder)
        (root / "README.md").write_text("# a file\n", encoding="utf-8")
        agents = root / ".crew" / "agents"
        agents.mkdir(parents=True)
        (agents / "bench-worker.md").write_text(AGENT, encoding="utf-8")
        os.environ |= {
            "BUB_HOME": f"{folder}/bub",
            "BUB_MODEL": "openai:scripted",
            "BUB_API_KEY": "test",
            "BUB_API_BASE": url,
            "CREW_LIMITS__PROCESS_SESSIONS": "1000",
            "CREW_LIMITS__WIDTH": "1000",
            "CREW_PROVIDER__START_REQUESTS": "1000",
        }
        subprocess.run([sys.executable, __file__, url, str(count), folder], check=False)
        print(json.dumps(asyncio.run(go_on(root, count))))


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    if len(sys.argv) > 3:
        asyncio.run(begin(Path(sys.argv[3]), int(sys.argv[2])))
    else:
        main(sys.argv[1], int(sys.argv[2]))
