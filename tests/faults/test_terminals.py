"""Terminals that nobody reads, and terminals that are closed."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crew_plugin.cli.pen import Pen
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.cli.terminal import Terminal, crew, document
from tests.cli.test_takeover import DIED, LEASE, home_of
from tests.faults.family import all_gone, family_of
from tests.faults.stubborn import Stubborn
from tests.hosts.bub_chat import read_store
from tests.hosts.bub_terminal import BubHome, BubTerminal, scripted_model
from tests.screen import WAIT

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

STOP, GO = "\x13", "\x11"
"""Ctrl-S and Ctrl-Q."""
RENEWALS = 10
"""So many, while nothing can be written, show that the supervisor does not wait for its terminal."""


def newest(home: BubHome, index: int = 0) -> RunRecord:
    return read_store(find_project(home.project), lambda store: store.list_runs()[index])


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def looks_and_waits(conversation: Conversation) -> Reply:
    """A worker that looks at a file, and hands in when it is let go."""
    if not conversation.tool_results:
        return Reply(calls=(ToolUse(name="read", arguments={"path": "app.py"}),))
    return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "SEEN"}),), held=True)


def test_a_run_does_not_wait_for_a_terminal_that_nobody_reads(tmp_path: Path) -> None:
    with scripted_model(looks_and_waits) as model:
        home = home_of(tmp_path, model.base_url, looks="read")
        with Terminal(home, ("run", "--agent", "looks", "look"), env=LEASE) as terminal:
            terminal.wait_for("read app.py")
            terminal.press(STOP)
            before = newest(home).renewals
            until(lambda: newest(home).renewals > before + RENEWALS)
            model.release()
            until(lambda: newest(home).state in RUN_TERMINAL)
            terminal.press(GO)
            status = terminal.wait()
        text = terminal.text()
    assert status == 0
    assert newest(home).state == "completed"
    assert "SEEN" in text
    assert text.count("Ctrl-C cancels") == 0, "the picture of the run was not taken away"


def test_a_pen_never_waits_and_says_what_it_left_out() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream, os.fdopen(reader, "rb") as read:
        pen = Pen(stream)
        for _ in range(3000):
            pen.write("x" * 999 + "\n")
        assert not pen.idle
        got = b""
        while not pen.idle:
            got += os.read(read.fileno(), 65536)
        pen.write("end\n")
        while b"end\n" not in got:
            got += os.read(read.fileno(), 65536)
        pen.settle(WAIT)
    whole = got.count(b"x" * 999)
    said = re.findall(r"^\((\d+) pieces were left out: nobody read\)$", got.decode(), re.MULTILINE)
    assert 1000 <= whole < 3000
    assert sum(map(int, said)) == 3000 - whole
    assert got.decode().splitlines()[-1] == "end"


def test_a_pen_whose_reader_is_gone_swallows_everything() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        pen = Pen(stream)
        pen.write("x")
        until(lambda: not pen.idle)
        assert pen.write("more") == 4
        pen.settle(WAIT)


def test_a_run_whose_terminal_is_closed_ends_with_what_is_finished(tmp_path: Path) -> None:
    with scripted_model(looks_and_waits) as model:
        home = home_of(tmp_path, model.base_url, looks="read")
        with Terminal(home, ("run", "--agent", "looks", "look", "--runtime", "child-process")) as terminal:
            terminal.wait_for("read app.py")
            family = family_of(terminal.pid)
            assert len(family) >= 3
            terminal.hang_up()
            all_gone(family)
    run = newest(home)
    assert (run.state, run.cause and run.cause.code) == ("cancelled", "shutdown")
    assert "SIGHUP" in str(run.cause)
    assert list((find_project(home.project).state_dir / "logs").glob("crew-error*")) == []


def starts_both(stubborn: Stubborn) -> Callable[[Conversation], Reply]:
    """A chat whose model starts an agent in the background and then one that it waits for."""

    def script(conversation: Conversation) -> Reply:
        if not conversation.offered("submit_result"):
            asked = [result.text for result in conversation.tool_results]
            arguments: dict[str, Any] = {"action": "run", "agent": "acts", "goal": "act"}
            if not asked:
                arguments = {"action": "run", "agent": "looks", "goal": "look", "async": True}
            return Reply(calls=(ToolUse(name="team", arguments=arguments),))
        if any(DIED in text for text in conversation.user_texts):
            return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "AFTER"}),))
        if conversation.offered("bash"):
            return Reply(calls=(ToolUse(name="bash", arguments={"command": stubborn.command}),))
        return looks_and_waits(conversation)

    return script


@pytest.mark.parametrize("how", ["closed", "told to end"])
def test_a_chat_that_is_ended_takes_its_commands_along_and_leaves_its_runs_to_go_on(
    tmp_path: Path, how: str
) -> None:
    stubborn = Stubborn()
    with scripted_model(starts_both(stubborn)) as model, stubborn.ended():
        home = home_of(tmp_path, model.base_url, looks="read", acts="bash")
        env = {**LEASE, "CREW_RUNTIME__BACKGROUND": "detached", "CREW_RUNTIME__MODE": "live-session"}
        with BubTerminal(home, env=env) as bub:
            bub.wait_for("command list")
            bub.say("go")
            stubborn.until_it_runs()
            until(lambda: any(asked.tool_results and asked.offered("submit_result") for asked in model.asked))
            # The guardian belongs to the system once its run goes on by itself.
            family = [
                each for each in family_of(bub.pid) if "crew_plugin.detached" not in str(each.cmdline())
            ]
            if how == "closed":
                bub.hang_up()
            else:
                os.kill(bub.pid, signal.SIGINT)  # Bub's own: it asks how to leave, and nothing ends
                bub.wait_for("Interrupted")
                assert stubborn.processes() != []
                os.kill(bub.pid, signal.SIGTERM)
                bub.wait()
            all_gone(family)
            stubborn.until_it_is_gone()
        waits, behind = newest(home), newest(home, 1)
        shown = document(crew(home, "status", waits.id, "--json"))["shown_state"]
        model.release()
        until(lambda: newest(home, 1).state in RUN_TERMINAL)
        key = document(crew(home, "status", waits.id, "--json"))["tasks"][0]["key"]
        done = crew(home, "resume", waits.id, "--decide", f"{key}=continue", "--json", env=LEASE)
    assert shown == "lost"
    assert newest(home, 1).id == behind.id
    assert newest(home, 1).state == "completed"
    assert document(done)["state"] == "completed", done.stderr
    assert "Traceback" not in bub.text()
