"""Questions and retries over real processes: `crew respond` reaches a session wherever it is, also
after its process was killed; `crew retry` really runs."""

import os
import signal
import time
from pathlib import Path

import pytest

from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.cli.terminal import crew, document
from tests.cli.test_takeover import LEASE, events, home_of, started, until
from tests.hosts.bub_terminal import BubHome, scripted_model
from tests.screen import WAIT

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]


class Asking:
    """Looks at a file, asks which port, and hands in what it was told."""

    def __init__(self) -> None:
        self.last: Conversation | None = None

    def __call__(self, conversation: Conversation) -> Reply:
        self.last = conversation
        results = conversation.tool_results
        if not results:
            return Reply(text="I look first.", calls=(ToolUse(name="read", arguments={"path": "app.py"}),))
        if len(results) == 1:
            question = {"question": "Which port?", "choices": ["8080", "9090"]}
            return Reply(text="I have to know.", calls=(ToolUse(name="ask", arguments=question),))
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": results[-1].text}),))


def summary(home: BubHome) -> str:
    (task,) = document(crew(home, "status", "last", "--json"))["tasks"]
    assert task["state"] == "completed"
    return str(task["summary"])


@pytest.mark.parametrize("runtime", ["live-session", "child-process"])
def test_a_question_is_shown_and_answered_from_another_terminal(tmp_path: Path, runtime: str) -> None:
    with scripted_model(Asking()) as server:
        home = home_of(tmp_path, server.base_url, asks="read")
        with started(home, "--agent", "asks", "choose", "--runtime", runtime) as process:
            until(home, "task.waiting")
            status, listed = crew(home, "status", "last"), crew(home, "respond")
            wrong = crew(home, "respond", "last", "1234")
            answered = crew(home, "respond", "last", "9090")
            assert process.wait(timeout=WAIT) == 0
    for shown in (status.stdout, listed.stdout):
        assert "Which port?" in shown
        assert "choices: 8080, 9090" in shown
        assert "crew respond run_" in shown
    assert (wrong.returncode, answered.returncode) == (2, 0)
    assert "answer must be one of: 8080, 9090; got '1234'" in wrong.stderr
    assert "its session goes on with it" in answered.stdout
    assert summary(home) == "The answer (operator): 9090"
    assert crew(home, "respond").stdout.strip() == "no question is open"
    late = crew(home, "respond", "last", "8080")
    assert (late.returncode, "answered already, by operator" in late.stderr) == (2, True)


@pytest.mark.parametrize("runtime", ["live-session", "child-process"])
def test_an_answer_that_came_while_nobody_drove_the_run_reaches_its_session_with_all_it_knew(
    tmp_path: Path, runtime: str
) -> None:
    model = Asking()
    with scripted_model(model) as server:
        home = home_of(tmp_path, server.base_url, asks="read")
        with started(home, "--agent", "asks", "choose", "--runtime", runtime) as process:
            until(home, "task.waiting")
            os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=WAIT)
        answered = crew(home, "respond", "last", "8080")
        assert "the answer is kept until somebody does" in answered.stdout
        done = crew(home, "resume", "last", "--json", env=LEASE)
    assert document(done)["state"] == "completed", done.stderr
    assert summary(home) == "The answer (operator): 8080"
    assert model.last is not None
    assert [result.text for result in model.last.tool_results][1:] == ["The answer (operator): 8080"]
    assert model.last.find("I look first.")
    assert [task["attempts"] for task in document(done)["tasks"]] == [1]


def test_a_run_that_is_taken_over_goes_on_waiting_until_the_answer_comes(tmp_path: Path) -> None:
    with scripted_model(Asking()) as server:
        home = home_of(tmp_path, server.base_url, asks="read")
        with started(home, "--agent", "asks", "choose") as process:
            until(home, "task.waiting")
            os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=WAIT)
        with started(home, command=("resume", "last")) as process:
            claims(home, 2)
            assert document(crew(home, "status", "last", "--json"))["tasks"][0]["state"] == "waiting"
            assert crew(home, "respond", "last", "9090").returncode == 0
            assert process.wait(timeout=WAIT) == 0
    assert summary(home) == "The answer (operator): 9090"


def test_a_waiting_task_without_a_session_is_cancelled_like_any_other(tmp_path: Path) -> None:
    with scripted_model(Asking()) as server:
        home = home_of(tmp_path, server.base_url, asks="read")
        with started(home, "--agent", "asks", "choose") as process:
            until(home, "task.waiting")
            os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=WAIT)
        with started(home, command=("resume", "last")) as process:
            claims(home, 2)
            cancelled = document(crew(home, "cancel", "last", "--json"))
            assert process.wait(timeout=WAIT) != 0
    assert (cancelled["outcome"], cancelled["state"]) == ("cancelled", "cancelled")
    assert crew(home, "respond").stdout.strip() == "no question is open"


def claims(home: BubHome, count: int) -> None:
    """Wait until so many supervisors have claimed the newest run."""
    deadline = time.monotonic() + WAIT
    while sum(event["type"] == "run.claimed" for event in events(home)) < count:
        assert time.monotonic() < deadline


class FailsOnce:
    """Gives up the first time, unless its task was changed."""

    def __call__(self, conversation: Conversation) -> Reply:
        told = conversation.find("The file is auth.py")
        arguments = {"summary": "found it"} if told else {"error": "there is no such file"}
        return Reply(calls=(ToolUse(name="submit_result", arguments=arguments),))


def test_a_failed_run_is_retried_with_other_words_and_completes(tmp_path: Path) -> None:
    with scripted_model(FailsOnce()) as server:
        home = home_of(tmp_path, server.base_url, looks="read")
        failed = crew(home, "run", "--agent", "looks", "look")
        again = crew(home, "retry", "last")
        retried = crew(home, "retry", "last", "--text", "The file is auth.py", "--json")
        nothing = crew(home, "retry", "last")
    assert (failed.returncode, again.returncode) == (1, 1)
    run = document(retried)
    assert (retried.returncode, run["state"]) == (0, "completed"), retried.stderr
    assert [task["attempts"] for task in run["tasks"]] == [3]
    assert (nothing.returncode, "nothing to retry" in nothing.stderr) == (2, True)
    reopened = [event for event in events(home) if event["type"] == "run.reopened"]
    assert [event["actor"] for event in reopened] == ["operator", "operator"]
