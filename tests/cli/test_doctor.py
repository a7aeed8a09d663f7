"""`crew doctor` on set-ups that are broken in every way at once, and on a good one."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import crew, document
from tests.hosts.bub_terminal import BubHome
from tests.hosts.mcp_stage import configure, plain, running

pytestmark = [pytest.mark.bub, pytest.mark.timeout(240)]
SECRET = "sk-do-not-print-me"


def findings(report: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    return {(item["section"], item["about"]): (item["level"], item["text"]) for item in report["checks"]}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[BubHome, "subprocess.CompletedProcess[str]"]:
    """No git, no key, a bad setting, broken resources, and a file where state should be."""
    home = BubHome.make(tmp_path_factory.mktemp("broken"), None)
    own = home.project / ".crew"
    (own / "agents").mkdir(parents=True)
    (own / "teams").mkdir()
    (own / "state").write_text("in the way", encoding="utf-8")
    (own / "config.toml").write_text("[limits]\nwidth = 'many'\n", encoding="utf-8")
    (own / "agents" / "bad.md").write_text("no frontmatter\n", encoding="utf-8")
    (own / "agents" / "odd.md").write_text(
        "---\ndescription: Odd\ntools: read, teleport\nskills: none-such\n---\nGo.\n", encoding="utf-8"
    )
    (own / "teams" / "half.team.md").write_text(
        "---\ndescription: Half\nworkflow: none-such\n---\n- a: agent=nobody\n", encoding="utf-8"
    )
    empty = home.home / "bin"
    empty.mkdir()
    return home, crew(home, "doctor", "--json", env={"PATH": str(empty), "BUB_MODEL": "openai:gpt-x"})


Broken = tuple[BubHome, "subprocess.CompletedProcess[str]"]


def test_a_broken_set_up_is_exit_code_one_and_every_fault_is_there(broken: Broken) -> None:
    home, done = broken
    assert done.returncode == 1, done.stderr
    report = document(done)
    assert report["ok"] is False
    found = findings(report)
    assert found["project", "git"] == ("warn", "not found; everything works but worktrees")
    level, text = found["project", "state"]
    assert (level, "--state-dir" in text) == ("fail", True)
    level, text = found["model", "key"]
    assert (level, "BUB_MODEL and BUB_API_KEY" in text) == ("fail", True)
    assert found["model", "model"] == ("ok", "openai:gpt-x")
    failed = " ".join(item["text"] for item in report["checks"] if item["level"] != "ok")
    assert "config.toml" in failed
    assert str(home.project / ".crew" / "agents" / "bad.md") in failed


def test_what_a_broken_resource_names_is_told_with_its_file(broken: Broken) -> None:
    texts = [item["text"] for item in document(broken[1])["checks"] if item["level"] == "fail"]
    assert any("there is no skill 'none-such'" in text for text in texts)
    assert any("there is no tool 'teleport'" in text for text in texts)
    assert any("the host has no teleport" in text for text in texts)
    assert any("half.team.md" in text for text in texts)


def test_one_broken_thing_does_not_hide_what_the_agents_would_get(broken: Broken) -> None:
    agents = {agent["name"]: agent for agent in document(broken[1])["agents"]}
    assert agents["explorer"]["tools"] == ["read", "grep", "find", "ls"]
    assert agents["explorer"]["model"] == "openai:gpt-x"
    assert agents["odd"]["missing_tools"] == ["teleport"]
    assert agents["executor"]["skills"] == ["careful-editing"]


def test_a_good_set_up_passes_without_printing_the_key(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    bub = home.home / "bub"
    bub.mkdir()
    configure(bub, {"calc": {"command": "never-started"}})
    good = crew(home, "doctor", env={"BUB_MODEL": "openai:gpt-x", "BUB_API_KEY": SECRET})
    assert good.returncode == 0, good.stdout
    assert "calc (not asked; --connect asks them)" in good.stdout
    assert "key: set" in good.stdout
    assert SECRET not in good.stdout + good.stderr
    assert not (home.project / ".crew").exists(), os.listdir(home.project)


def test_what_each_agent_gets_of_each_server_is_listed_and_a_dead_server_is_found(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    (home.home / "bub").mkdir()
    configure(
        home.home / "bub", {"plain": plain(tmp_path / "host"), "dead": plain(tmp_path / "dead", "exit")}
    )
    own = plain(tmp_path / "own")
    agents = home.home / "config" / "crew-plugin" / "agents"
    agents.mkdir(parents=True)
    (agents / "adder.md").write_text(
        "---\nname: adder\ntools: mcp__plain__*, bash\ndeny_tools: mcp__*__die*\n"
        f"mcp_servers: {json.dumps({'mine': own})}\n---\nYou add.\n",
        encoding="utf-8",
    )
    env = {"BUB_MODEL": "openai:gpt-x", "BUB_API_KEY": SECRET}
    asked = crew(home, "doctor", "--connect", "--json", env=env)
    assert asked.returncode == 1
    assert SECRET not in asked.stdout + asked.stderr
    report = document(asked)
    found = findings(report)
    assert found["servers", "MCP plain"][0] == "ok"
    assert found["servers", "MCP dead"] == ("fail", "failed: Connection closed")
    (adder,) = (agent for agent in report["agents"] if agent["name"] == "adder")
    servers = {server["name"]: server for server in adder["mcp_servers"]}
    assert {name: (server["own"], server["state"]) for name, server in servers.items()} == {
        "mine": (True, "connected"),
        "plain": (False, "connected"),
    }
    assert servers["plain"]["denied"] == ["mcp__plain__die", "mcp__plain__die_once"]
    assert servers["plain"]["offered"] == len(servers["plain"]["tools"]) + 2
    assert {"bash", "mcp__plain__add", "mcp__mine__add"} <= {*adder["tools"]}
    assert not {"mcp__plain__die", "mcp__mine__die"} & {*adder["tools"]}
    assert "gives 10 of 12 tools, denied: mcp__plain__die" in found["agents", "adder"][1]
    assert running(tmp_path / "host") == running(tmp_path / "own") == []
