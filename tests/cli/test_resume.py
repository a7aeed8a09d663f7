"""`crew resume`: going on with an agent, also when the process that ran it was killed."""

import os
import signal
from pathlib import Path

from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.cli.terminal import Terminal, crew
from tests.hosts.bub_terminal import BubHome, scripted_model

SAID = "the port is 8080"


def home_of(folder: Path, base_url: str) -> BubHome:
    home = BubHome.make(folder, base_url)
    agents = home.project / ".crew" / "agents"
    agents.mkdir(parents=True)
    (agents / "talks.md").write_text("---\nname: talks\ntools: read\n---\nYou talk.\n", encoding="utf-8")
    return home


def looks_and_hangs(conversation: Conversation) -> Reply:
    """Says what it found, calls a tool and hangs; asked again, hands in what it remembers."""
    if "and the host?" in conversation.last_user:
        summary = f"remembered: {conversation.find(SAID)}, asked {len(conversation.user_texts)} times"
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": summary}),))
    if not conversation.tool_results:
        return Reply(text=SAID, calls=(ToolUse(name="irc", arguments={"op": "list"}),))
    return Reply(held=True)


def test_an_agent_is_gone_on_with_after_its_process_was_killed(tmp_path: Path) -> None:
    with scripted_model(looks_and_hangs) as model:
        home = home_of(tmp_path, model.base_url)
        with Terminal(home, ("run", "--agent", "talks", "which port?")) as terminal:
            terminal.wait_for("irc")
            refused = crew(home, "resume", "last", "and the host?")
            os.kill(terminal.pid, signal.SIGKILL)
            terminal.wait()
        done = crew(home, "resume", "last", "and the host?", "--quiet")
    assert refused.returncode != 0
    assert "still goes on" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert f"remembered: {SAID}, asked 2 times" in done.stdout
