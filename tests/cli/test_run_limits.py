"""Sessions that would go on for ever, in a whole `crew run`: ended by their limit, with what they had."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from tests.cli.terminal import crew, document
from tests.hosts.bub_terminal import BubHome, scripted_model

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

AGENT = "---\nname: patient\ntools: read\nlimits: {{{limits}}}\n---\nYou look at files.\n"


def never_stops(conversation: Conversation) -> Reply:
    """Reads on and on, also when only the result is left to hand in."""
    text = f"Seen so far: {len(conversation.tool_results)} readings of app.py."
    return Reply(text=text, calls=(ToolUse(name="read", arguments={"path": "app.py"}),))


def never_answers(conversation: Conversation) -> Reply:
    """Reads once and then says nothing any more."""
    return Reply(fault=Fault.STALL) if conversation.tool_results else never_stops(conversation)


def run_limited(
    folder: Path, script: Script, limits: str
) -> tuple[dict[str, Any], "subprocess.CompletedProcess[str]"]:
    """`crew run` of the agent with these limits: what `crew show` says afterwards, and how it ended."""
    with scripted_model(script) as model:
        home = BubHome.make(folder, model.base_url)
        agents = home.project / ".crew" / "agents"
        agents.mkdir(parents=True)
        (agents / "patient.md").write_text(AGENT.format(limits=limits), encoding="utf-8")
        done = crew(home, "run", "--agent", "patient", "look", "--quiet")
    shown = crew(home, "show", "last", "patient")
    assert shown.returncode == 0, shown.stderr
    assert "Seen so far: " in shown.stdout
    return document(crew(home, "show", "last", "--json")), done


def test_a_session_that_never_stops_calling_tools_is_ended_by_its_limit(tmp_path: Path) -> None:
    run, done = run_limited(tmp_path, never_stops, "steps: 4")
    assert done.returncode == 1
    (task,) = run["tasks"]
    assert (run["state"], task["attempts"]) == ("failed", 1)
    assert (task["state"], task["cause"]["code"]) == ("needs_attention", "step_limit")
    assert task["last_text"].startswith("Seen so far: ")
    assert f"no result; its last text: artifact {task['last_text_artifact']['sha256'][:16]}" in done.stdout


def test_a_session_that_never_answers_is_ended_by_its_limit(tmp_path: Path) -> None:
    run, done = run_limited(tmp_path, never_answers, "wall_seconds: 3")
    assert done.returncode == 1
    (task,) = run["tasks"]
    assert (run["state"], task["attempts"]) == ("failed", 1)
    assert (task["state"], task["cause"]["code"]) == ("failed", "wall_limit")
    assert task["last_text"] == "Seen so far: 0 readings of app.py."
    assert f"no result; its last text: artifact {task['last_text_artifact']['sha256'][:16]}" in done.stdout
