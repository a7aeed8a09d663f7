"""Measure the crew beside peers and the bare transports, in one run; print the tables.

python -m bench [--rounds 3] [--counts 1,32,100] [--latencies 0,200] [--many 1000] [--write]

Cases take turns, so that a machine that changes its speed changes it for all of them. `--write`
puts the tables into docs/performance.md. The peers live in an environment of their own,
.venv-bench, made on first use.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-bench"
PEER_PACKAGES = (
    "pydantic-ai-slim[openai]>=2.60",
    "langgraph>=1.0",
    "langchain-openai>=1.0",
    "aiohttp>=3.11",
    "httpx>=0.28",
)
CASES = ("bare httpx", "bare aiohttp", "pydantic-ai", "langgraph", "crew")
MANY_LATENCY_MS = 2000
COMMANDS = {"status RUN": "one_status", "status last": "last_status", "runs": "runs", "inbox": "inbox"}
WARM = "3"
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"
Figures = dict[str, float]


@dataclass
class Series:
    """The rounds of one case at one size."""

    rounds: list[Figures] = field(default_factory=list)

    def median(self, key: str) -> float:
        """The median of one figure over the rounds; NaN where no round has it."""
        values = [figures[key] for figures in self.rounds if key in figures]
        return statistics.median(values) if values else float("nan")


def peer_python() -> str:
    """The Python of the peers' environment, made where it is missing."""
    python, made = PEERS / "bin" / "python", PEERS / ".made"
    wanted = "\n".join(PEER_PACKAGES)
    if not made.exists() or made.read_text(encoding="utf-8") != wanted:
        say("Making .venv-bench with the peers that the crew is measured beside ...")
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)
        made.write_text(wanted, encoding="utf-8")
    return str(python)


@contextmanager
def model_server(latency_ms: int) -> Iterator[str]:
    """The base URL of a model server in a process of its own."""
    command = [sys.executable, "-m", "bench.server", str(latency_ms)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def run_case(case: str, url: str, count: int, *more: str) -> Figures:
    """One round of one case in a fresh process."""
    folder = ROOT / "bench" / "cases"
    commands = {
        "bare httpx": [peer_python(), str(folder / "floor.py"), "httpx", url, str(count)],
        "bare aiohttp": [peer_python(), str(folder / "floor.py"), "aiohttp", url, str(count)],
        "pydantic-ai": [peer_python(), str(folder / "pydantic_ai_case.py"), url, str(count), WARM],
        "langgraph": [peer_python(), str(folder / "langgraph_case.py"), url, str(count), WARM],
        "crew": [sys.executable, str(folder / "crew_case.py"), url, str(count), WARM, *more],
    }
    figures = measure(commands[case])
    if figures["got"] != count:
        sys.exit(f"{case} lost results at N={count}: {figures['got']:.0f} of {count}")
    if "started" in figures:
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats") as answer:  # loopback
            arrivals: list[float] = json.load(answer)["arrivals"]
        figures["child_start"] = min(at for at in arrivals if at >= figures["started"]) - figures["started"]
    return figures


def measure(command: list[str]) -> Figures:
    """The JSON that a case prints last."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "hooks", ROOT / "tools"))),
    }
    # What is installed is compiled once; so is what is measured, by the first round.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # A folder with the file that every worker reads.
    with tempfile.TemporaryDirectory(prefix="crew-bench-") as folder:
        Path(folder, "README.md").write_text("# a file\n", encoding="utf-8")
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def sessions(rounds: int, counts: list[int], latency: int) -> dict[tuple[str, int], Series]:
    """All cases at all sizes at one latency."""
    series = {(case, count): Series() for case in CASES for count in counts}
    for number in range(rounds):
        for count in counts:
            for case in CASES:
                # A server for each: nothing that a case left behind meets the next one.
                with model_server(latency) as url:
                    series[case, count].rounds.append(run_case(case, url, count))
        say(f"latency {latency} ms: round {number + 1} of {rounds} is done")
    return series


def session_table(series: dict[tuple[str, int], Series], counts: list[int], latency: int) -> str:
    """One table: a row for each case, wall and CPU for each size."""
    heads = [f"N={count}: wall ms" for count in counts] + ["CPU ms each"]
    ideal = 2 * latency / 1000
    if ideal:
        heads.append(f"N={counts[-1]}: of ideal")
    heads += ["first request after ms, N=1", f"N={counts[-1]}"]
    lines = [f"| {latency} ms model latency | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for case in CASES:
        cells = [f"{series[case, count].median('wall') * 1000:.0f}" for count in counts]
        small, large = series[case, counts[0]], series[case, counts[-1]]
        cells.append(f"{share(series, case, counts, 'cpu') * 1000:.1f}")
        if ideal:
            cells.append(f"{large.median('wall') / ideal:.2f}x")
        for measured in (small, large):
            start = measured.median("child_start")
            cells.append("" if start != start else f"{start * 1000:.0f}")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def share(series: dict[tuple[str, int], Series], case: str, counts: list[int], key: str) -> float:
    """What one more worker costs of something, from the smallest size to the largest."""
    more = series[case, counts[-1]].median(key) - series[case, counts[0]].median(key)
    return more / max(1, counts[-1] - counts[0])


def crew_table(series: dict[tuple[str, int], Series], counts: list[int], rounds: int) -> str:
    """What only the crew is asked: memory, and how long it holds up the loop."""
    most = counts[-1]
    longest = Series()
    for _ in range(rounds):
        with model_server(0) as url:
            longest.rounds.append(run_case("crew", url, most, "callbacks"))
    grown = series["crew", most].median("memory") / most
    return "\n".join(
        [
            f"| the crew at N={most}, no latency | |",
            "|---|---|",
            f"| memory for each session, MB at the peak | {grown:.3f} |",
            f"| longest callback of the loop, processor ms | {longest.median('longest') * 1000:.0f} |",
            f"| the same by the clock, ms | {longest.median('longest_wall') * 1000:.0f} |",
        ]
    )


def many_table(count: int) -> str:
    """So many sessions at once in one process, at a slow model."""
    ideal = 2 * MANY_LATENCY_MS / 1000
    lines = [
        f"| {count} at once, {MANY_LATENCY_MS} ms model latency | results | wall s | of ideal | CPU ms each "
        "| memory MB each |",
        "|---" * 6 + "|",
    ]
    for case in ("bare aiohttp", "crew"):
        with model_server(MANY_LATENCY_MS) as url:
            figures = run_case(case, url, count)
        memory = f"{figures['memory'] / count:.3f}" if "memory" in figures else ""
        lines.append(
            f"| {case} | {figures['got']:.0f} | {figures['wall']:.1f} | {figures['wall'] / ideal:.2f}x "
            f"| {figures['cpu'] / count * 1000:.1f} | {memory} |"
        )
        say(f"{case}: {count} at once are done")
    return "\n".join(lines)


def child_table(count: int) -> str:
    """Sessions in worker processes, beside live ones and beside plain `bub run`."""
    folder = ROOT / "bench" / "cases"
    rows: list[tuple[str, Figures]] = []
    for case in ("crew, live", "crew, worker processes", "bub run, one process each"):
        with model_server(200) as url:
            if case == "crew, live":
                figures = run_case("crew", url, count)
                rows.append((case, {"start": figures["child_start"], "cpu_each": figures["cpu"] / count}))
            elif case == "crew, worker processes":
                rows.append(
                    (case, measured_start([str(folder / "child_case.py"), url, str(count), WARM], url))
                )
            else:
                rows.append((case, measure([sys.executable, str(folder / "bub_run_case.py"), url, "3"])))
        say(f"{case}: done")
    lines = [
        f"| {count} workers, 200 ms model latency | first request after ms | CPU ms each | own MB each |",
        "|---" * 4 + "|",
    ]
    for case, figures in rows:
        memory = f"{figures['uss_each']:.1f}" if "uss_each" in figures else ""
        lines.append(
            f"| {case} | {figures['start'] * 1000:.0f} | {figures['cpu_each'] * 1000:.0f} | {memory} |"
        )
    gate = measure([sys.executable, str(folder / "gate_case.py"), "1000"])
    lines += ["", f"A worker's request waits {gate['turn'] * 1000:.2f} ms for its supervisor's open gate."]
    return "\n".join(lines)


def measured_start(arguments: list[str], url: str) -> Figures:
    """What a case prints, with the seconds until the server's first request after its start."""
    figures = measure([sys.executable, *arguments])
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats") as answer:  # loopback
        arrivals: list[float] = json.load(answer)["arrivals"]
    figures["start"] = min(at for at in arrivals if at >= figures["started"]) - figures["started"]
    return figures


def store_table() -> str:
    """What the store can do, and what going on with a run takes."""
    folder = ROOT / "bench" / "cases"
    store = measure([sys.executable, str(folder / "store_case.py")])
    with model_server(200) as url:
        recovery = measure([sys.executable, str(folder / "recovery_case.py"), url, "100"])
    say("store: done")
    return "\n".join(
        [
            "| the store, and recovery | |",
            "|---|---|",
            f"| commits a second, one event each | {store['commits']:.0f} |",
            f"| until another connection has seen an event, ms | {store['follow'] * 1000:.0f} |",
            f"| status of one run among 1,000 of 20 tasks, read in ms | {store['status'] * 1000:.2f} |",
            *(
                f"| `crew {command}`, 10,000 runs, ms beyond the interpreter (times its start) "
                f"| {store[key] * 1000:.0f} ({store[key] / store['interpreter']:.1f}) |"
                for command, key in COMMANDS.items()
            ),
            f"| 100 tasks killed in the middle: all go on after ms | {recovery['resumed'] * 1000:.0f} |",
            f"| and the run has ended after ms, 200 of them a model's | {recovery['wall'] * 1000:.0f} |",
        ]
    )


def import_table(rounds: int) -> str:
    """What loading the plugin costs the host."""
    command = [sys.executable, str(ROOT / "bench" / "cases" / "imports.py")]
    series = Series([measure(command) for _ in range(rounds + 1)][1:])
    return "\n".join(
        [
            "| loading | CPU ms |",
            "|---|---|",
            f"| Bub with its own hooks | {series.median('bub'):.0f} |",
            f"| the plugin's entry point adds | {series.median('adds'):.1f} |",
            f"| registering tools and hooks adds | {series.median('register'):.1f} |",
        ]
    )


def machine() -> str:
    """One line about where this was measured."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")
        ]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{os.cpu_count()} cores of {model}, {platform.system()}, CPython {platform.python_version()}"


def write(text: str) -> None:
    """Put the tables between the marks of docs/performance.md."""
    path = ROOT / "docs" / "performance.md"
    page = path.read_text(encoding="utf-8")
    head, _, rest = page.partition(START)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{START}\n{text}\n{END}{tail}", encoding="utf-8")


def say(line: str) -> None:
    """Progress goes to standard error, the tables to standard output."""
    print(line, file=sys.stderr, flush=True)


def numbers(text: str) -> list[int]:
    """`1,8,32` as a list."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each case; medians are printed")
    parser.add_argument("--counts", type=numbers, default=[1, 32, 100], help="sizes, e.g. 1,8,32")
    parser.add_argument("--latencies", type=numbers, default=[0, 200], help="of the model, in ms")
    parser.add_argument("--many", type=int, default=1000, help="sessions at once at a slow model; 0 for none")
    parser.add_argument("--workers", type=int, default=8, help="worker processes at once; 0 for none")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    parts = [f"Measured on {machine()}; medians of {options.rounds} rounds.", import_table(options.rounds)]
    for latency in options.latencies:
        measured = sessions(options.rounds, options.counts, latency)
        parts.append(session_table(measured, options.counts, latency))
        if latency == 0:
            parts.append(crew_table(measured, options.counts, options.rounds))
    if options.many:
        parts.append(many_table(options.many))
    if options.workers:
        parts += [child_table(options.workers), store_table()]
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        write(text)


if __name__ == "__main__":
    main()
