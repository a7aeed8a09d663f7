"""Plain `bub run` up to its first request: what a worker process costs without the crew.

Usage: bub_run_case.py URL N. Prints {"got", "start", "cpu_each"}: seconds to the first request, at which the
process is ended, and of the processor.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

LONGEST = 60.0


def arrivals(url: str) -> int:
    """How many requests the model server has had."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats") as answer:  # loopback
        return len(json.load(answer)["arrivals"])


def one(command: list[str], folder: str, environment: dict[str, str], url: str) -> float:
    """Seconds until the first request of one process."""
    before, begun = arrivals(url), time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while arrivals(url) == before and time.monotonic() - begun < LONGEST:
            time.sleep(0.01)
        taken = time.monotonic() - begun
        process.kill()
    return taken


def main(url: str, count: int) -> dict[str, float]:
    """N processes, one after the other, so that each has the machine to itself."""
    with tempfile.TemporaryDirectory(prefix="crew-bench-") as folder:
        environment = {
            **os.environ,
            "BUB_HOME": f"{folder}/bub",
            "BUB_MODEL": "openai:scripted",
            "BUB_API_KEY": "test",
            "BUB_API_BASE": url,
        }
        command = [str(Path(sys.executable).parent / "bub"), "run", "say something"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken = [one(command, folder, environment, url) for _ in range(count)]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return {"got": count, "start": sum(taken) / count, "cpu_each": cpu / count}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
