"""Somebody else's package, found by its entry points, in the Bub and the crew that people run."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from crew_plugin.models.records import EventRecord, RunRecord
from crew_plugin.models.states import RunState
from crew_plugin.project import find_project
from crew_plugin.store.port import RunStore
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.cli.terminal import crew
from tests.hosts.bub_chat import read_store, team_script
from tests.hosts.bub_terminal import BubHome, run_bub, scripted_model
from tests.hosts.test_bub_crew import with_server

pytestmark = pytest.mark.bub

AGENT = "---\nname: curious\ntools: bash, guest.lookup, mcp__calc__add\n---\nYou are curious.\n"
SHUT = """\
from crew_plugin.hookspecs import Verdict, hookimpl


@hookimpl
def before_run_start(event):
    return Verdict(allow=False, reason=f"{event.team} may not run here")
"""


@dataclass(frozen=True, kw_only=True)
class GuestHome(BubHome):
    """A home in whose environment the guest's package is installed."""

    site: Path
    log: Path

    @property
    def env(self) -> dict[str, str]:
        env = super().env
        return env | {"PYTHONPATH": f"{self.site}:{env['PYTHONPATH']}", "GUEST_LOG": str(self.log)}

    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


def install(home: BubHome, folder: Path, base_url: str) -> GuestHome:
    """The package as pip leaves it: its modules, and its metadata beside them."""
    site = folder / "site"
    info = site / "crew_guest-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "guest" / "crew_guest.py", site)
    (info / "METADATA").write_text("Name: crew-guest\nVersion: 1.0\n", encoding="utf-8")
    entries = "[bub]\nguest = crew_guest:plugin\n\n[crew_plugin]\ngate = crew_guest:Gate\n"
    (info / "entry_points.txt").write_text(entries, encoding="utf-8")
    return GuestHome(
        project=home.project, home=home.home, base_url=base_url, site=site, log=folder / "guest.log"
    )


def curious(conversation: Conversation) -> Reply:
    """A parent that asks for the curious agent, which tries all its tools and tells what they said."""
    if not conversation.offered("submit_result"):
        if conversation.new_results:
            return team_script(conversation)
        return Reply(
            calls=(ToolUse(name="team", arguments={"action": "run", "agent": "curious", "goal": "find"}),)
        )
    results = conversation.tool_results
    if not results:
        return Reply(
            calls=(
                ToolUse(name="bash", arguments={"command": "touch made"}),
                ToolUse(name="guest_lookup", arguments={"word": "life"}),
                ToolUse(name="mcp__calc__add", arguments={"a": 20, "b": 22}),
            )
        )
    said = [result.text for result in results]
    blocks = [line for line in conversation.system.splitlines() if "GUEST BLOCK" in line]
    kind = "AND BE KIND" in conversation.first_user
    summary = json.dumps({"said": said, "blocks": blocks, "kind": kind, "tools": sorted(conversation.tools)})
    return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": summary}),))


def what_happened(store: RunStore) -> tuple[RunRecord, str, list[EventRecord], list[tuple[str, str | None]]]:
    (run,) = store.list_runs()
    (result,) = store.list_results(run.id)
    (task,) = store.load_tasks(run.id)
    calls = store.list_tool_calls(task.attempt_id or "")
    return run, result.summary, store.tail(run.id), [(call.tool, call.error) for call in calls]


def test_a_guests_hooks_and_tools_work_in_sessions_and_what_it_denies_is_on_the_journal(
    tmp_path: Path,
) -> None:
    home, _ = with_server(tmp_path)
    (home.project / ".crew" / "agents" / "curious.md").write_text(AGENT, encoding="utf-8")
    with scripted_model(curious) as model:
        guest = install(home, tmp_path, model.base_url)
        done = run_bub(guest, "run", "be curious")
    assert done.returncode == 0, done.stderr
    run, summary, events, calls = read_store(find_project(home.project), what_happened)
    assert run.state is RunState.COMPLETED

    told = json.loads(summary)
    assert "the guest forbids bash" in told["said"][0]
    assert told["said"][1] == "life means 42 to curious"
    assert "the guest forbids mcp__calc__add" in told["said"][2]
    assert told["blocks"] == ["GUEST BLOCK for curious curious"]
    assert told["kind"]
    assert {"guest_lookup", "mcp__calc__add", "submit_result"} <= set(told["tools"])
    assert not (home.project / "made").exists()

    forbidden = "not made; the plugin guest denied it: the guest forbids"
    assert dict(calls) == {
        "bash": f"{forbidden} bash",
        "guest_lookup": None,
        "mcp__calc__add": f"{forbidden} mcp__calc__add",
        "submit_result": None,
    }
    acts = [
        (event.data["hook"], event.data["outcome"])
        for event in events
        if event.type == "session.plugin_acted"
    ]
    assert sorted(acts) == [
        ("before_tool_call", "denied"),
        ("before_tool_call", "denied"),
        ("load_state", "failed"),
    ]
    executed = {event.data["hook"]: event.data for event in events if event.type == "hook.executed"}
    assert executed["before_task_start"]["outcome"] == "modified"
    assert executed["before_task_start"]["diagnostic"] == "kindness added"
    assert executed["after_run_end"]["outcome"] == "raised"
    assert {data["plugin"] for data in executed.values()} == {"gate"}
    (resolved,) = [event.data for event in events if event.type == "runtime.resolved"]
    assert (resolved["kind"], resolved["requested"], resolved["fallback"]) == ("live", "auto", False)
    assert any(line.startswith("host: bub 0.5") for line in resolved["looked_at"])

    seen = guest.seen()
    (who,) = {json.dumps(line["who"]) for line in seen if line["what"] == "tool" and line["who"]}
    assert json.loads(who).keys() == {"run", "task", "role", "agent", "session"}
    assert json.loads(who)["run"] == run.id
    assert [line["what"] for line in seen if line["what"] in ("connected", "disconnected", "result")] in (
        ["connected", "disconnected", "result"],
        ["connected", "result", "disconnected"],
    )


def test_a_projects_own_hooks_count_only_where_the_user_trusts_it(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    hooks = home.project / ".crew" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "gate.py").write_text(SHUT, encoding="utf-8")
    stranger = crew(home, "run", "--dry-run", "--agent", "explorer", "look")
    assert stranger.returncode == 0, stderr(stranger)
    assert "hooks of this project are not loaded (gate.py)" in stranger.stderr

    config = home.home / "config" / "crew-plugin" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f"trusted_projects = [{str(home.project)!r}]\n", encoding="utf-8")
    trusted = crew(home, "run", "--dry-run", "--agent", "explorer", "look")
    assert trusted.returncode == 1, stderr(trusted)
    assert "hook_blocked: solo may not run here" in trusted.stdout
    assert "not loaded" not in trusted.stderr

    (hooks / "gate.py").write_text(f"{SHUT}\n1 / 0\n", encoding="utf-8")
    broken = crew(home, "run", "--dry-run", "--agent", "explorer", "look")
    assert broken.returncode == 1, stderr(broken)
    for text in (broken.stdout, broken.stderr):
        assert "gate.py:8: raised ZeroDivisionError" in text


def stderr(done: Any) -> str:
    return f"{done.stdout}\n{done.stderr}"


def test_a_mode_is_executed_as_it_was_asked_for_and_a_dry_run_is_called_one(tmp_path: Path) -> None:
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        child = crew(home, "run", "--agent", "explorer", "--runtime", "child-process", "look at app.py")
        status = crew(home, "status", "last")
    assert child.returncode == 0, stderr(child)
    assert "explorer  explorer  completed" in status.stdout

    offline = replace(home, base_url=None)
    dry = crew(offline, "run", "review", "--runtime", "scaffold", "look at app.py")
    assert dry.returncode == 0, stderr(dry)
    assert "written, no model was asked" in dry.stdout
    runs = json.loads(crew(offline, "runs", "--json").stdout)["runs"]
    assert [(run["shown_state"], run["runtime"]) for run in runs] == [
        ("dry run", "scaffold"),
        ("completed", "child"),
    ]
    shown = crew(offline, "show", "last").stdout
    assert "tasks: 4 dry run" in shown
    assert "needs_attention" not in shown
    assert "no result: its prompt was written, no model was asked" in shown
