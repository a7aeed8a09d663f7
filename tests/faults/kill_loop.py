"""Kills processes of a run at random until it has ended all the same, and looks at the store each time.

`python -m tests.faults.kill_loop --kills 1000` goes on for as long as it takes; every round tells its seed.
"""

import argparse
import contextlib
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pexpect
import psutil

from crew_plugin.models.causes import CauseCode
from crew_plugin.models.records import EventRecord, RunRecord, TaskRecord
from crew_plugin.models.states import RUN_TERMINAL, RunState, TaskState
from crew_plugin.project import Project, find_project
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore
from crew_plugin.store.sqlite import SqliteStore
from tests.cli.terminal import CREW
from tests.faults.wide_model import EFFECTS, MARK, WIDE
from tests.hosts.bub_terminal import ROOT, BubHome, BubTerminal
from tests.hosts.mcp_stage import PLAIN, configure, plain
from tests.screen import WAIT
from tests.store.fold import all_events, assert_events_tell_the_rows

__all__ = ["KINDS", "MODES", "KillLoop", "Mode", "Tally", "model_process"]

Mode = Literal["live", "child", "detached", "detached-child", "chat", "chat-detached"]
MODES: Final[tuple[Mode, ...]] = ("live", "child", "detached", "detached-child", "chat", "chat-detached")
KINDS: Final = ("host", "supervisor", "guardian", "zygote", "worker", "mcp")
_TOKEN: Final = "KILL_LOOP"
"""In the environment of everything that may be killed."""
_AT_WORK: Final = 0.8
_WEIGHTS: Final = {"worker": 3, "zygote": 2, "mcp": 2}
_GONE_SECONDS: Final = 10.0
_PATIENCE: Final = 15.0
"""Seconds after which a chat is asked again to take the run over, or one that nobody claims is taken."""
_ENDS: Final = {"task.completed", "task.failed", "task.cancelled", "task.needs_attention", "task.skipped"}
_SETTINGS: Final = {
    "CREW_RECOVERY__LEASE_SECONDS": "2",
    # A task that is killed again and again before its model says anything is given up, on purpose.
    "CREW_LIMITS__MAX_DISPATCHES": "100",
    "CREW_LIMITS__WIDTH": "6",
}


@dataclass(slots=True)
class Tally:
    """What was killed."""

    kills: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    takeovers: int = 0
    decisions: int = 0
    """About tasks that were cut off in a call with an effect outside."""

    @property
    def total(self) -> int:
        return self.kills.total()

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {self.kills[kind]}" for kind in KINDS if self.kills[kind])
        return (
            f"{self.total} kills ({kinds}) in {self.runs} runs with {self.takeovers} takeovers "
            f"and {self.decisions} decisions"
        )


@contextmanager
def model_process(latency_ms: float) -> Generator[str]:
    """The base URL of a model server in a process of its own."""
    command = [sys.executable, "-m", "tests.faults.wide_model", "--latency-ms", str(latency_ms)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(WAIT)


class KillLoop:
    """One run of many tasks in one mode, and whoever drives it at the moment."""

    def __init__(self, folder: Path, base_url: str, mode: Mode, *, seed: int, tasks: int = 60) -> None:
        self.mode = mode
        self.random = random.Random(seed)
        self.home = _home(folder, base_url, tasks)
        self.tasks = tasks
        self.tally = Tally()
        self._token = f"{seed}-{time.monotonic_ns()}"
        self._servers = str(folder / "plain")
        self._followed = folder / "followed.jsonl"
        self._errors = folder / "errors.log"
        self._seen: list[EventRecord] = []
        self._driver: subprocess.Popen[str] | None = None
        self._chat: BubTerminal | None = None
        self._killed: list[str] = []
        self._asked: tuple[int, int, float] = (0, 0, 0.0)
        """Which chat was asked last to take the run over, from which epoch, and when."""
        self._stack = contextlib.ExitStack()
        self.run_id = ""

    @property
    def project(self) -> Project:
        return find_project(self.home.project)

    @property
    def env(self) -> dict[str, str]:
        background = "detached" if self.mode == "chat-detached" else "host"
        return {
            **self.home.env,
            **_SETTINGS,
            "CREW_RUNTIME__BACKGROUND": background,
            # What is done is delivered while the rest still goes on.
            **({"CREW_DELIVERY__FIRST_SECONDS": "1"} if self._chats else {}),
            _TOKEN: self._token,
        }

    @property
    def _chats(self) -> bool:
        return self.mode.startswith("chat")

    def run(self, kills: int) -> Tally:
        """Kill so often, or until the run is over, then let it come to its end. Raises `AssertionError`
        when anything is not as promised."""
        with self._stack:
            try:
                self._start()
                self._follow()
                while self.tally.total < kills and not self._over():
                    self._kill_one()
                    self._look()
                    self._go_on()
                deadline = time.monotonic() + 3 * WAIT
                while not self._over():
                    assert time.monotonic() < deadline, f"it does not end: {self._told()}"
                    self._go_on()
                    self._pause(0.1)
                self._settle()
            finally:
                self._end_all()
        self.tally.runs = 1
        return self.tally

    def _start(self) -> None:
        if self._chats:
            self._open_chat()
            assert self._chat is not None
            self._chat.say(WIDE)
        else:
            runtime = "child-process" if "child" in self.mode else "live-session"
            words = ["run", "wide", "look around", "--runtime", runtime, "--quiet"]
            self._drive(*words, *(["--detach"] if "detached" in self.mode else []))
        deadline = time.monotonic() + WAIT
        while not self.run_id:
            assert time.monotonic() < deadline, f"no run: {self._told()}"
            self._pause(0.05)
            if self.project.database.exists():
                with contextlib.suppress(sqlite3.Error), self._reading() as store:
                    self.run_id = next((run.id for run in store.list_runs()), "")

    def _follow(self) -> None:
        """What is printed to others is acknowledged."""
        output = self._stack.enter_context(self._followed.open("w", encoding="utf-8"))
        follower = subprocess.Popen(
            [CREW, "events", self.run_id, "--follow", "--json"],
            cwd=self.home.project,
            env=self.home.env,
            stdout=output,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(follower.wait)
        self._stack.callback(follower.kill)

    def _drive(self, *words: str) -> None:
        errors = self._stack.enter_context(self._errors.open("a", encoding="utf-8"))
        self._driver = subprocess.Popen(
            [CREW, *words],
            cwd=self.home.project,
            env=self.env,
            stdout=errors,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        self._stack.callback(self._driver.wait)
        self._stack.callback(self._driver.kill)

    def _open_chat(self) -> None:
        self._chat = self._stack.enter_context(BubTerminal(self.home, env=self.env))
        self._chat.wait_for("command list")

    def _kill_one(self) -> None:
        """Somebody at random: mostly once there is work under way, sometimes while all is still starting."""
        if self.random.random() < _AT_WORK:
            self._until_at_work()
        self._pause(self.random.choice((0.0, 0.1, 0.5, 1.5)) * self.random.random())
        living = self._processes()
        kinds = [kind for kind in KINDS if kind in living]
        if kinds:
            kind = self.random.choices(kinds, [_WEIGHTS.get(kind, 1) for kind in kinds])[0]
            victim = self.random.choice(living[kind])
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
                self.tally.kills[kind] += 1
                self._killed.append(f"{kind} {victim.pid}")

    def _until_at_work(self) -> None:
        """Until a model has answered the supervisor that there is now."""
        deadline = time.monotonic() + WAIT
        while not self._over() and time.monotonic() < deadline:
            self._go_on()
            with self._reading() as store:
                events = store.tail(self.run_id, after_seq=self._seen[-1].seq if self._seen else 0)
            if any(event.type == "session.model_answered" for event in events):
                return
            self._pause(0.05)

    def _go_on(self) -> None:
        """Whoever finds the run without a supervisor takes it over."""
        if self._over():
            return
        if self._chats:
            self._chat_goes_on()
        elif self._driver is not None and self._driver.poll() is not None and not self._supervised():
            self.tally.takeovers += 1
            with self._reading() as store:
                ended = store.load_run(self.run_id).state in RUN_TERMINAL
            decided = self._decided()
            words = ["--decide", decided] if decided and not ended else []
            self._drive("retry" if ended else "resume", self.run_id, "--quiet", *words)

    def _chat_goes_on(self) -> None:
        assert self._chat is not None
        if not psutil.pid_exists(self._chat.pid) or _is_zombie(self._chat.pid):
            self._chat.wait()
            self._open_chat()
        with self._reading() as store:
            run = store.load_run(self.run_id)
        pid, epoch, at = self._asked
        asked = (pid, epoch) == (self._chat.pid, run.epoch) and time.monotonic() - at < _PATIENCE
        if not asked and _nobody_drives(run):
            self.tally.takeovers += 1
            decided = self._decided()
            try:
                self._chat.say(
                    f",team resume {self.run_id}{f' decide={decided}' if decided else ''} async=true"
                )
            except pexpect.EOF:
                return  # it was killed, and only now is gone
            self._asked = (self._chat.pid, run.epoch, time.monotonic())

    def _decided(self) -> str:
        """A decision about each task that waits for one."""
        with self._reading() as store:
            held = [task.key for task in store.load_tasks(self.run_id) if task.hold is not None]
        return ",".join(f"{key}={self.random.choice(('continue', 'restart'))}" for key in held)

    def _processes(self) -> dict[str, list[psutil.Process]]:
        """Everything of this loop that runs, by what it is."""
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                # A server that the SDK starts gets little of the environment.
                marked = process.environ().get(_TOKEN) == self._token or self._servers in process.cmdline()
                if not marked or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                found.setdefault(_kind(process), []).append(process)
        return found

    def _supervised(self) -> bool:
        living = self._processes()
        return bool(living.get("supervisor") or living.get("guardian"))

    def _pause(self, seconds: float) -> None:
        """A moment; a chat's terminal is read meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._chat is None:
                time.sleep(left)
            else:
                with contextlib.suppress(Exception):  # its end shows elsewhere
                    self._chat.pump(min(left, 0.05))
                time.sleep(min(left, 0.01))

    @contextmanager
    def _reading(self) -> Generator[RunStore]:
        with closing(SqliteStore.open(self.project, read_only=True)) as store:
            yield store

    def _over(self) -> bool:
        """Whether the run has ended, and not only because a task's worker was killed twice."""
        with self._reading() as store:
            run, tasks = store.load_run(self.run_id), store.load_tasks(self.run_id)
        return run.state in RUN_TERMINAL and not (run.state == RunState.FAILED and _lost_workers(tasks))

    def _look(self) -> None:
        """What must hold at any time."""
        with closing(sqlite3.connect(self.project.database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with self._reading() as store, store.transaction():
            events = all_events(store)
            assert_events_tell_the_rows(store)
            self._look_at_results(store)
            self._look_at_effects(store, events)
        assert events[: len(self._seen)] == self._seen, "an event was lost or changed"
        assert [event.seq for event in events] == sorted({event.seq for event in events})
        self._seen = events
        _each_ends_once(events)
        by_seq = {event.seq: event for event in events}
        for line in self._followed.read_text(encoding="utf-8").split("\n")[:-1]:
            told: dict[str, Any] = json.loads(line)
            if told["seq"] <= events[-1].seq:
                stored = by_seq[told["seq"]]
                assert (stored.type, dict(stored.data)) == (told["type"], told["data"])

    def _look_at_effects(self, store: RunStore, events: Sequence[EventRecord]) -> None:
        """No session has its effect twice, and each that handed in had it, unless that was in doubt."""
        path = self.home.project / EFFECTS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        had = Counter(line.split()[0] for line in lines)
        assert [session for session, times in had.items() if times > 1] == [], "an effect was repeated"
        doubted = {event.task_id for event in events if event.type == "task.held"}
        for task in store.load_tasks(self.run_id):
            for attempt in store.list_attempts(task.id):
                if attempt.result_id and task.id not in doubted:
                    assert had[attempt.session_id] == 1, f"{task.key} had no effect"

    def _look_at_results(self, store: RunStore) -> None:
        texts: list[str] = []
        for task in store.load_tasks(self.run_id):
            results = [each.result_id for each in store.list_attempts(task.id) if each.result_id]
            assert len(results) == (task.state == TaskState.COMPLETED) or (
                task.state == TaskState.RUNNING and len(results) == 1
            ), f"{task.key} is {task.state} with {len(results)} results"
            summaries = [store.load_result(result).summary for result in results]
            assert all(f"REPORT {task.key}," in text for text in summaries), summaries
            texts += summaries
        assert len(set(texts)) == len(texts), "a result is there twice"

    def _settle(self) -> None:
        """What must hold at the end."""
        if self._chats:
            self._chat_gets_its_results()
        self._look()
        with self._reading() as store:
            run, tasks = store.load_run(self.run_id), store.load_tasks(self.run_id)
            causes = [(task.key, task.state, task.cause) for task in tasks if task.state != "completed"]
        assert run.state == "completed", f"{run.cause} {causes[:3]} {self._told()}"
        assert len(tasks) == self.tasks
        self.tally.decisions = sum(event.type == "task.decided" for event in self._seen)
        assert causes == []
        deadline = time.monotonic() + _GONE_SECONDS
        while left := self._processes():
            assert time.monotonic() < deadline, f"left: {left}"
            self._pause(0.1)

    def _chat_gets_its_results(self) -> None:
        deadline = time.monotonic() + WAIT
        states: set[str] = set()
        said = False
        while states != {"acknowledged"}:
            assert time.monotonic() < deadline, f"deliveries are {states}: {self._told()}"
            assert self._chat is not None
            if not psutil.pid_exists(self._chat.pid) or _is_zombie(self._chat.pid):
                self._chat.wait()
                self._open_chat()
                said = False
            if not said:
                self._chat.say("anything new?")
                said = True
            self._pause(0.3)
            with self._reading() as store:
                states = {str(row.state) for row in store.list_deliveries(run_id=self.run_id)}
        assert self._chat is not None
        assert self._chat.quit() == 0
        with self._reading() as store:
            parcels = {row.parcel for row in store.list_deliveries(run_id=self.run_id)}
            results = len(store.list_results(self.run_id))
        messages = [
            message
            for tape in (self.home.home / "bub").rglob("*.jsonl")
            for message in _messages_of_the_user(tape)
            if "[crew delivery " in message
        ]
        # Each message names one delivery and settles all that stand in it.
        ids = [each for message in messages for each in re.findall(r"\[crew delivery (\S+?)\]", message)]
        assert len(ids) == len(set(ids)), f"handed over {len(ids)} times: {ids}"
        assert set(ids) == parcels
        told = Counter(key for message in messages for key in re.findall(r"\| REPORT (s\d+),", message))
        assert set(told.values()) <= {1}, f"told more than once: {told}"
        assert len(told) == results

    def _told(self) -> str:
        said = self._errors.read_text(encoding="utf-8")[-3000:] if self._errors.exists() else ""
        return (
            f"killed: {', '.join(self._killed)}\n{said}"
            + (self._chat.text()[-3000:] if self._chat else "")
            + str(self._processes())
        )

    def _end_all(self) -> None:
        for processes in self._processes().values():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def _home(folder: Path, base_url: str, tasks: int) -> BubHome:
    """A project whose team `wide` has so many steps, every third after the one before it."""
    home = BubHome.make(folder, base_url)
    place = home.project / ".crew"
    for name in ("agents", "teams", "workflows"):
        (place / name).mkdir(parents=True)
    agent = "---\nname: looks\ntools: read, bash, mcp__plain__*\n---\nYou look.\n"
    (place / "agents" / "looks.md").write_text(agent, encoding="utf-8")
    team = "---\nname: wide\ndefault_workflow: wide\n---\n\n- looker: agent=looks looks\n"
    (place / "teams" / "wide.team.md").write_text(team, encoding="utf-8")
    steps = ["---\nname: wide\n---\n"]
    for number in range(tasks):
        after = f"depends_on: s{number - 1}\n" if number % 3 == 2 else ""
        steps.append(f"## s{number}\nrole: looker\n{after}\nLook at app.py. {MARK} s{number}\n")
    (place / "workflows" / "wide.workflow.md").write_text("\n".join(steps), encoding="utf-8")
    (home.home / "bub").mkdir()
    configure(home.home / "bub", {"plain": plain(folder / "plain")})
    return home


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if "crew_plugin.detached.guardian" in command:
        return "guardian"
    if "crew_hooks.bub.zygote" in command:
        parent = process.parent()
        forked = parent is not None and "crew_hooks.bub.zygote" in " ".join(parent.cmdline())
        return "worker" if forked or (parent is not None and parent.pid == 1) else "zygote"
    if str(PLAIN) in command:
        return "mcp"
    if "bub chat" in command:
        return "host"
    return "supervisor" if CREW in command or "crew_plugin.detached.supervisor" in command else "command"


def _nobody_drives(run: RunRecord) -> bool:
    """Whether it waits for a decision, or whoever drove it or was to drive it is gone."""
    if run.state is RunState.QUEUED and run.owner is None:
        return time.time() - run.created_at > _PATIENCE
    return run.owner is None or not owner_alive(run.owner)


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _messages_of_the_user(tape: Path) -> list[str]:
    entries = [json.loads(line) for line in tape.read_text(encoding="utf-8").splitlines()]
    messages = [entry["payload"] for entry in entries if entry.get("kind") == "message"]
    return [str(message["content"]) for message in messages if message.get("role") == "user"]


def _lost_workers(tasks: Sequence[TaskRecord]) -> bool:
    return any(task.cause is not None and task.cause.code is CauseCode.WORKER_LOST for task in tasks)


def _each_ends_once(events: list[EventRecord]) -> None:
    ended: set[str] = set()
    for event in events:
        if event.type == "task.requeued" and event.task_id:
            ended.discard(event.task_id)
        elif event.type in _ENDS and event.task_id:
            assert event.task_id not in ended, f"{event.task_id} ended twice"
            ended.add(event.task_id)


def main() -> None:
    """Rounds of runs in all modes until so many processes were killed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--each", type=int, default=25, help="kills in one run")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--mode", choices=MODES, help="only this one")
    parser.add_argument("--latency-ms", type=float, default=150.0)
    options = parser.parse_args()
    whole = Tally()
    seed: int = options.seed
    with model_process(options.latency_ms) as base_url:
        while whole.total < options.kills:
            mode: Mode = options.mode or MODES[seed % len(MODES)]
            print(f"seed {seed} {mode}: ", end="", flush=True)
            with tempfile.TemporaryDirectory(prefix="crew-kills-") as folder:
                tally = KillLoop(Path(folder), base_url, mode, seed=seed).run(options.each)
            print(tally, flush=True)
            whole.kills += tally.kills
            whole.runs += tally.runs
            whole.takeovers += tally.takeovers
            whole.decisions += tally.decisions
            seed += 1
    print(f"in all: {whole}")


if __name__ == "__main__":
    main()
