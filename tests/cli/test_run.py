"""`crew run` against a scripted model, in processes of its own."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.testing.scripts import demo, submission
from tests.cli.terminal import CREW, Terminal, crew, document, is_alive, typed
from tests.hosts.bub_terminal import BubHome, scripted_model

pytestmark = [pytest.mark.bub, pytest.mark.timeout(240)]


def hangs_after_explore(conversation: Conversation) -> Reply:
    """Explore hands in its result; whoever comes next never gets an answer."""
    if conversation.find(r"What earlier tasks left you"):
        return Reply(fault=Fault.STALL)
    return demo(conversation)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[BubHome, "subprocess.CompletedProcess[str]"]:
    """A project in which the review team has just been run."""
    with scripted_model(demo) as model:
        home = BubHome.make(tmp_path_factory.mktemp("finished"), model.base_url)
        done = crew(home, "run", "review", "look for bugs in app.py")
    return home, done


@pytest.fixture
def home(tmp_path: Path) -> BubHome:
    return BubHome.make(tmp_path, None)


Finished = tuple[BubHome, "subprocess.CompletedProcess[str]"]


def test_a_run_ends_with_results_that_quote_what_was_really_read(finished: Finished) -> None:
    _, done = finished
    assert done.returncode == 0, done.stderr
    assert 'PASSWORD = "hunter2"' in done.stdout
    for key in ("explore", "code-review", "security-review", "verify"):
        assert f"## {key} " in done.stdout


def test_progress_is_one_plain_line_per_event_on_standard_error(finished: Finished) -> None:
    _, done = finished
    lines = done.stderr.splitlines()
    assert lines[0] == "loading the host ..."
    assert any(re.fullmatch(r"explore +explorer +read app\.py", line) for line in lines)
    assert re.fullmatch(r"run +completed", lines[-1])
    assert "\x1b" not in done.stderr + done.stdout
    assert "DEBUG" not in done.stderr
    assert "INFO" not in done.stderr


def test_the_end_says_where_the_artifacts_are_and_what_to_type_next(finished: Finished) -> None:
    home, done = finished
    assert f"artifacts, kept in {home.project}/.crew/state; read one with " in done.stdout
    commands = re.findall(r"^  (\S*crew .+)$", done.stdout, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        again = typed(home, command)
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout.strip()


def test_what_was_run_is_listed_shown_and_followed(finished: Finished) -> None:
    home, _ = finished
    (run,) = document(crew(home, "runs", "--json"))["runs"]
    assert (run["team"], run["shown_state"]) == ("review", "completed")
    assert "tasks: 4 completed" in crew(home, "status").stdout
    shown = document(crew(home, "show", "last", "explore", "--json"))
    assert "hunter2" in shown["tasks"][0]["result"]["summary"]
    transcript = crew(home, "show", "last", "explore", "--transcript").stdout
    assert "submit_result" in transcript
    assert "look for bugs in app.py" in crew(home, "show", "last", "explore", "--prompt").stdout
    followed = crew(home, "events", "last", "--follow", "--json").stdout.splitlines()
    assert '"run.created"' in followed[0]
    assert '"run.completed"' in followed[-1]


def test_json_prints_one_document_with_whole_results(tmp_path: Path) -> None:
    with scripted_model(demo) as model:
        home = BubHome.make(tmp_path, model.base_url)
        done = crew(home, "run", "--agent", "explorer", "look around", "--json", "--quiet")
    run = document(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert run["state"] == "completed"
    (task,) = run["tasks"]
    assert "hunter2" in task["result"]["summary"]
    assert task["usage"]["calls"] >= 2


def test_a_goal_of_a_megabyte_of_anything_is_taken_literally_from_standard_input(home: BubHome) -> None:
    goal = "{goal}\n---\nname: x\n---\n[bold]{{}} 🦆" + " and more" * 120_000
    done = crew(home, "run", "--agent", "explorer", "-", "--dry-run", "--quiet", stdin=goal)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 prompt was written, no model was asked" in done.stdout
    assert document(crew(home, "status", "--json"))["goal"] == goal
    assert goal[:60] in crew(home, "show", "last", "--prompt").stdout
    artifacts = document(crew(home, "show", "last", "--json"))["artifacts"]
    whole = next(each["sha256"] for each in artifacts if each["name"] == "goal.md")
    assert crew(home, "show", "last", "--artifact", whole[:12]).stdout.rstrip("\n") == goal


def test_without_a_model_the_two_settings_and_the_demo_are_named(home: BubHome) -> None:
    done = crew(home, "run", "review", "look")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("crew: a model is not configured: set BUB_MODEL and BUB_API_KEY")
    assert "crew demo" in last
    assert "Traceback" not in done.stderr
    assert crew(home, "runs").stdout == "no runs yet\n"


def test_an_unknown_team_is_refused_with_the_nearest_name_and_nothing_is_written(home: BubHome) -> None:
    done = crew(home, "run", "reviw", "look", "--dry-run")
    assert done.returncode == 2
    assert "did you mean 'review'?" in done.stderr.splitlines()[-1]
    assert document(crew(home, "runs", "--json")) == {"runs": []}


def test_a_refused_key_fails_the_run_with_the_cause_and_the_setting(tmp_path: Path) -> None:
    with scripted_model(lambda _: Reply(fault=Fault.UNAUTHORIZED)) as model:
        home = BubHome.make(tmp_path, model.base_url)
        done = crew(home, "run", "--agent", "explorer", "look", "--quiet")
    assert done.returncode == 1
    assert "model_error" in done.stdout
    assert "BUB_API_KEY" in done.stdout
    assert "0 of 1 results were finished" in done.stdout


def test_another_process_cancels_a_run_within_a_second(tmp_path: Path) -> None:
    with scripted_model(hangs_after_explore) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with subprocess.Popen(
            [CREW, "run", "review", "look"],
            cwd=home.project,
            env=home.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stderr is not None
            while "code-review     reviewer           started" not in running.stderr.readline():
                assert running.poll() is None
            begun = time.monotonic()
            cancelled = crew(home, "cancel", "last", "--reason", "wrong branch", "--json")
            took = time.monotonic() - begun
            out, _ = running.communicate(timeout=60)
    report = document(cancelled)
    assert (report["outcome"], report["run"]["state"]) == ("cancelled", "cancelled")
    assert report["run"]["cause"]["message"] == "cancelled from the command line: wrong branch"
    assert took < 5, "bounded; the second is measured in the benchmarks"
    assert running.returncode == 130
    assert "1 of 4 results were finished and are kept" in out


def test_ctrl_c_cancels_with_a_summary_of_what_is_kept(tmp_path: Path) -> None:
    with scripted_model(hangs_after_explore) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with Terminal(home, ("run", "review", "look")) as terminal:
            terminal.wait_for(lambda text: "✓ explore" in text and "thinking" in text)
            terminal.press("\x03")
            status = terminal.wait()
        text = terminal.text()
    assert status == 130
    assert "cancelled with Ctrl-C" in text
    assert "1 of 4 results were finished and are kept" in text
    assert "crew show run_" in text
    assert bytes(terminal.raw).rstrip().endswith(b"crew events " + run_id(text).encode())
    assert "hunter2" in crew(home, "show", "last", "explore").stdout


def test_a_second_ctrl_c_stops_at_once_and_takes_every_child_along(tmp_path: Path) -> None:
    def stubborn(conversation: Conversation) -> Reply:
        """A shell that no polite signal ends."""
        if conversation.tool_results:
            return Reply(calls=(submission(conversation),))
        command = "trap '' TERM INT HUP; echo $$ > shell.pid; while :; do sleep 1; done"
        return Reply(calls=(ToolUse(name="bash", arguments={"command": command}),))

    with scripted_model(stubborn) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with Terminal(home, ("run", "--agent", "executor", "wait")) as terminal:
            pid_file = home.project / "shell.pid"
            terminal.wait_for(lambda _: pid_file.exists() and pid_file.read_text().strip() != "")
            terminal.press("\x03")
            terminal.wait_for("cancelling")
            terminal.press("\x03")
            status = terminal.wait()
        text = terminal.text()
    assert status == 130
    assert "stopped at once" in text
    assert re.search(r"crew cancel run_\w+", text)
    assert not is_alive(int(pid_file.read_text()))
    assert b"\x1b[?25h" in bytes(terminal.raw)[-400:]
    assert document(crew(home, "status", "--json"))["shown_state"] == "lost"


def test_a_run_that_is_killed_is_shown_as_lost_and_closed_honestly(tmp_path: Path) -> None:
    with scripted_model(hangs_after_explore) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with Terminal(home, ("run", "review", "look")) as terminal:
            terminal.wait_for(lambda text: "✓ explore" in text and "thinking" in text)
            os.kill(terminal.pid, signal.SIGKILL)
            terminal.wait()
    status = document(crew(home, "status", "--json"))
    assert (status["state"], status["shown_state"]) == ("running", "lost")
    assert [task["shown_state"] for task in status["tasks"]] == ["completed", "lost", "lost", "queued"]
    assert "hunter2" in crew(home, "show", "last", "explore").stdout
    assert "crew cancel" in crew(home, "status").stdout
    followed = crew(home, "events", "last", "--follow")
    assert followed.returncode == 0
    closed = document(crew(home, "cancel", "last", "--json"))
    assert closed["outcome"] == "marked_lost"
    after = document(crew(home, "status", "--json"))
    assert (after["state"], after["cause"]["code"]) == ("failed", "supervisor_lost")
    assert after["tasks"][0]["state"] == "completed"


def test_a_terminal_shows_a_live_tree_and_then_the_results(tmp_path: Path) -> None:
    with scripted_model(demo, latency=0.4) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with Terminal(home, ("run", "review", "look for bugs in app.py")) as terminal:
            live = terminal.wait_for(lambda text: "waits for code-review" in text and "✓ explore" in text)
            status = terminal.wait()
        text = terminal.text()
    assert "Ctrl-C cancels" in live
    assert status == 0
    assert "Ctrl-C cancels" not in text
    assert text.count("└─ ✓ verify") == 1
    assert "loguru" not in text
    assert "DEBUG" not in text


def test_a_terminal_that_wants_no_colour_gets_plain_lines(tmp_path: Path) -> None:
    with scripted_model(demo) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with Terminal(home, ("run", "--agent", "explorer", "look"), env={"NO_COLOR": "1"}) as terminal:
            assert terminal.wait() == 0
    assert b"\x1b" not in bytes(terminal.raw)
    assert "explorer        started" in terminal.text()


def run_id(text: str) -> str:
    found = re.search(r"crew show (run_\w+)", text)
    assert found is not None
    return found[1]
