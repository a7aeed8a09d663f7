"""Secrets that a session of Bub comes across, and what of them is on the disk afterwards."""

from pathlib import Path

import pytest

from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.cli.terminal import crew, document
from tests.cli.test_takeover import LEASE, home_of
from tests.hosts.bub_terminal import scripted_model

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

KEY = "sk-ant-api03-" + "a1B2c3D4" * 6
HELD = "held-by-the-process-4711"
SHA = "4f7c1e9ab3d2c4f7c1e9ab3d2c4f7c1e9ab3d2c4"
LOUD = f"for n in $(seq 4000); do echo line $n; done; cat notes.txt; echo $DEPLOY_TOKEN; echo {SHA}"


def looks(conversation: Conversation) -> Reply:
    """Runs a command that prints secrets, and hands in what it found."""
    if not conversation.tool_results:
        return Reply(text="I look.", calls=(ToolUse(name="bash", arguments={"command": LOUD}),))
    seen = conversation.tool_results[-1].text
    assert KEY in seen
    assert HELD in seen
    data = {"key": "password", "token": 12, "commit": SHA}
    return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "seen", "data": data}),))


@pytest.mark.parametrize("runtime", ["live-session", "child-process"])
def test_secrets_that_a_session_saw_are_nowhere_on_the_disk_and_its_result_is_whole(
    tmp_path: Path, runtime: str
) -> None:
    with scripted_model(looks) as server:
        home = home_of(tmp_path, server.base_url, acts="bash")
        (home.project / "notes.txt").write_text(f"the keys are\n{KEY}\n", encoding="utf-8")
        environment = {**LEASE, "DEPLOY_TOKEN": HELD}
        done = crew(home, "run", "--agent", "acts", "look", "--runtime", runtime, "--json", env=environment)
        told = crew(home, "show", "last", "--transcript").stdout

    assert document(done)["state"] == "completed", done.stderr
    (task,) = document(done)["tasks"]
    assert task["result"]["data"] == {"key": "password", "token": 12, "commit": SHA}
    assert "[redacted: api key of Anthropic]" in told
    assert "[redacted: value of DEPLOY_TOKEN]" in told
    assert SHA in told
    kept = b"".join(
        path.read_bytes() for path in (home.project / ".crew" / "state").rglob("*") if path.is_file()
    )
    assert len(kept) > 10_000
    assert KEY.encode() not in kept
    assert HELD.encode() not in kept
