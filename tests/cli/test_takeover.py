"""Runs whose supervisor is killed, stopped or doubled, in real processes: `crew resume` goes on with them."""

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.scripts import demo
from tests.cli.terminal import CREW, Terminal, crew, document
from tests.hosts.bub_terminal import BubHome, scripted_model
from tests.screen import WAIT

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

NAP = "61.25"
DIED = "The process that you worked in died"
LEASE = {"CREW_RECOVERY__LEASE_SECONDS": "1"}
AGENT = "---\nname: {name}\ntools: {tools}\n---\nYou work.\n"


class Model:
    """Each agent looks at a file and then hangs until its process has died; `who` counts requests."""

    def __init__(self, *, first: ToolUse | None = None, alone: bool = True) -> None:
        self.alone = alone
        self.first = first or ToolUse(name="read", arguments={"path": "app.py"})
        self.asked: Counter[str] = Counter()
        self.free = False
        """Nobody hangs any more."""
        self.lets_go = False
        """Whoever was to hang hands in instead."""
        self.hangs = threading.Semaphore(0)

    def frees(self) -> None:
        """From now on nobody hangs."""
        self.lets_go = True

    def __call__(self, conversation: Conversation) -> Reply:
        # Whoever comes later finds in the prompt what was handed in before.
        who = "other" if conversation.find("What earlier tasks left you") or self.alone else "explore"
        self.asked[who] += 1
        if who == "explore" or self.free:
            return demo(conversation)
        if not conversation.tool_results:
            return Reply(text="I look first.", calls=(self.first,))
        if self.lets_go or any(DIED in text for text in conversation.user_texts):
            seen = len(conversation.tool_results)
            summary = f"done by {who} after {seen} looks"
            return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": summary}),))
        self.hangs.release()
        return Reply(held=True)


def home_of(folder: Path, base_url: str, **agents: str) -> BubHome:
    """A project with agents of these names and tools."""
    home = BubHome.make(folder, base_url)
    place = home.project / ".crew" / "agents"
    place.mkdir(parents=True)
    for name, tools in agents.items():
        (place / f"{name}.md").write_text(AGENT.format(name=name, tools=tools), encoding="utf-8")
    return home


@contextmanager
def started(
    home: BubHome, *words: str, command: tuple[str, ...] = ("run",), env: Mapping[str, str] | None = None
) -> "Iterator[subprocess.Popen[str]]":
    """`crew run`, or another command, in a process of its own, which does not outlive the block."""
    with subprocess.Popen(
        [CREW, *command, *words],
        cwd=home.project,
        env={**home.env, **LEASE, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def events(home: BubHome) -> list[dict[str, Any]]:
    """What happened in the newest run; nothing where there is none yet."""
    found: list[dict[str, Any]] = document(crew(home, "events", "last", "--json")).get("events", [])
    return found


def commands_named(text: str) -> list[int]:
    """The processes whose command line holds this text."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if text in " ".join(process.info["cmdline"] or ())
    ]


def until_runs(text: str) -> None:
    """Wait until there is such a process: one that becomes another program has no command line meanwhile."""
    deadline = time.monotonic() + WAIT
    while not commands_named(text):
        assert time.monotonic() < deadline, f"nothing runs {text}"
        time.sleep(0.02)


def until(home: BubHome, kind: str) -> None:
    """Wait until an event of this type stands in the newest run."""
    deadline = time.monotonic() + WAIT
    while not any(event["type"] == kind for event in events(home)):
        assert time.monotonic() < deadline, f"no {kind}"


def test_a_run_whose_process_was_killed_is_gone_on_with_and_nothing_finished_is_done_again(
    tmp_path: Path,
) -> None:
    model = Model(alone=False)
    with scripted_model(model) as server:
        home = BubHome.make(tmp_path, server.base_url)
        with Terminal(home, ("run", "review", "look")) as terminal:
            terminal.wait_for("✓ explore")
            assert all(model.hangs.acquire(timeout=WAIT) for _ in range(2))
            os.kill(terminal.pid, signal.SIGKILL)
            terminal.wait()
        asked = model.asked["explore"]
        before = events(home)
        model.free = True
        done = crew(home, "resume", "last", "--json")
    run = document(done)
    assert done.returncode == 0, done.stderr
    assert run["state"] == "completed"
    assert model.asked["explore"] == asked
    assert [task["attempts"] for task in run["tasks"]] == [1, 1, 1, 1]
    after = events(home)
    assert after[: len(before)] == before
    verdicts = [event["data"]["verdict"] for event in after if event["type"] == "attempt.triaged"]
    assert verdicts == ["resumable", "resumable"]


def test_a_command_that_was_cut_off_waits_for_a_decision(tmp_path: Path) -> None:
    model = Model(first=ToolUse(name="bash", arguments={"command": f"sleep {NAP}"}))
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, acts="bash")
        with started(home, "--agent", "acts", "act"):
            until(home, "session.tool_started")
            # The journal is written before the shell is started.
            until_runs(f"sleep {NAP}")
        until_runs(f"sleep {NAP}")
        stopped = crew(home, "resume", "last")
        assert not commands_named(f"sleep {NAP}")
        run = document(crew(home, "status", "last", "--json"))
        asked = model.asked["other"]
        wrong = crew(home, "resume", "last", "--decide", "acts=perhaps")
        done = crew(home, "resume", "last", "--decide", f"{run['tasks'][0]['key']}=continue", "--json")
    assert stopped.returncode == 1
    assert "waits for a decision" in stopped.stdout
    assert f"sleep {NAP}" in stopped.stdout
    assert (run["state"], run["tasks"][0]["shown_state"]) == ("blocked", "held")
    assert (wrong.returncode, asked) == (2, 1)
    assert "continue, restart, fail" in wrong.stderr
    assert document(done)["state"] == "completed", done.stderr
    assert document(done)["tasks"][0]["attempts"] == 1


def test_a_supervisor_that_was_stopped_finds_its_run_taken_and_writes_nothing_more(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with started(home, "--agent", "looks", "look") as process:
            assert model.hangs.acquire(timeout=WAIT)
            until(home, "session.tool_ended")
            os.kill(process.pid, signal.SIGSTOP)
            done = crew(home, "resume", "last", "--json", env=LEASE)
            after = events(home)
            os.kill(process.pid, signal.SIGCONT)
            _, told = process.communicate(timeout=WAIT)
    assert document(done)["state"] == "completed", done.stderr
    assert process.returncode not in (0, None)
    assert "belongs to another supervisor now" in told
    assert events(home) == after
    assert [event["data"]["takeover"] for event in after if event["type"] == "run.claimed"] == [False, True]


def test_a_run_whose_supervisor_works_is_not_taken(tmp_path: Path) -> None:
    model = Model()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        with started(home, "--agent", "looks", "look") as process:
            assert model.hangs.acquire(timeout=WAIT)
            refused = crew(home, "resume", "last", env=LEASE)
            process.terminate()
            process.communicate(timeout=WAIT)
        ended = crew(home, "resume", "last")
    assert refused.returncode != 0
    assert f"process {process.pid}" in refused.stderr
    assert ended.returncode == 2
    assert "has ended" in ended.stderr
