"""What was tried out by hand before the adapter was written, with the same numbers of sessions."""

import asyncio
import json
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from crew_plugin.engine.plan import ParallelTask
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.records import EventRecord, ResultRecord, TaskRecord
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.store.port import RunStore
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_chat import chat, team_script
from tests.hosts.bub_terminal import BubHome
from tests.hosts.test_bub_crew import SERVER, hosted, marked, submitted

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

WAIT = 40
AGENTS = {
    "talks": "---\nname: talks\ntools: mcp__calc__meet\n---\nYou talk to the others.\n",
    "bare": "---\nname: bare\ntools: read\n---\nYou work alone.\n",
    "checked": "---\nname: checked\nschema:\n  type: object\n  required: [n]\n"
    "  properties: {n: {type: integer}}\n---\nYou count.\n",
    "shell": "---\nname: shell\ntools: bash\n---\nYou look around.\n",
    "meets": "---\nname: meets\ntools: mcp__calc__meet\n---\nYou meet the others.\n",
}
ALWAYS = {"submit_result", "irc", "ask"}


def use(name: str, **arguments: object) -> Reply:
    return Reply(calls=(ToolUse(name=name, arguments=arguments),))


def home_with_server(folder: Path) -> tuple[BubHome, Path]:
    """A project with these agents and one server, which leaves a file for each of its starts."""
    home = BubHome.make(folder, None)
    agents = home.project / ".crew" / "agents"
    agents.mkdir(parents=True)
    for name, text in AGENTS.items():
        (agents / f"{name}.md").write_text(text, encoding="utf-8")
    starts = folder / "starts"
    starts.mkdir()
    servers = {"calc": {"command": sys.executable, "args": [str(SERVER), str(starts)]}}
    (home.home / "bub").mkdir()
    (home.home / "bub" / "mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    return home, starts


class Six:
    """alice and bob meet in the server and talk, lazy hands in late, never does not, bad is wrong
    once, and where says in which folder it is. Notes what each was offered and told."""

    def __init__(self) -> None:
        self.offered: dict[str, set[str]] = {}
        self.told: dict[str, tuple[str, ...]] = {}

    def __call__(self, said: Conversation) -> Reply:
        name = next(
            name for name in ("alice", "bob", "lazy", "never", "bad", "where") if self._is(said, name)
        )
        self.offered.setdefault(name, set(said.tools))
        self.told[name] = said.user_texts
        reply: Reply = getattr(self, name)(said, len(said.tool_results))
        return reply

    def _is(self, said: Conversation, name: str) -> bool:
        return f"be {name}" in said.first_user

    def alice(self, said: Conversation, step: int) -> Reply:
        return self._met(said, step, use("mcp__calc__meet", of=2), use("mcp__calc__meet", of=2))

    def bob(self, said: Conversation, step: int) -> Reply:
        tells = use("irc", op="send", to="t1", message="BOB WAS HERE")
        return self._met(said, step, use("mcp__calc__meet", of=2), tells, use("mcp__calc__meet", of=2))

    def _met(self, said: Conversation, step: int, *steps: Reply) -> Reply:
        if step < len(steps):
            return steps[step]
        return use("submit_result", summary=said.tool_results[0].text)

    def lazy(self, said: Conversation, step: int) -> Reply:
        if len(said.user_texts) > 2:
            return use("submit_result", summary="at last")
        return Reply(text="I rest.")

    def never(self, said: Conversation, step: int) -> Reply:
        return Reply(text="I refuse.")

    def bad(self, said: Conversation, step: int) -> Reply:
        return use("submit_result", summary="counted", data={"n": 3 if step else "three"})

    def where(self, said: Conversation, step: int) -> Reply:
        return use("submit_result", summary=said.tool_results[0].text) if step else use("bash", command="pwd")


def after(store: RunStore, run_id: str) -> tuple[list[TaskRecord], list[ResultRecord], list[EventRecord]]:
    return store.load_tasks(run_id), store.list_results(run_id), store.tail(run_id, limit=100_000)


async def test_six_sessions_at_once_each_come_to_their_own_end_over_one_server_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, starts = home_with_server(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = Six()
    async with hosted(home, monkeypatch, script) as crew:
        run = await submitted(
            crew,
            ParallelTask(goal="be alice", agent="talks"),
            ParallelTask(goal="be bob", agent="talks"),
            ParallelTask(goal="be lazy", agent="bare"),
            ParallelTask(goal="be never", agent="bare"),
            ParallelTask(goal="be bad", agent="checked"),
            ParallelTask(goal="be where", agent="shell", cwd=str(elsewhere)),
        )
        with anyio.fail_after(WAIT):
            ended = await crew.supervisor.execute(run.id)
        tasks, results, events = await crew.writer.read(lambda store: after(store, run.id))
    (server,) = [path.stem for path in starts.iterdir()]
    states = {task.key: task.state for task in tasks}
    assert states == {
        "t4": TaskState.NEEDS_ATTENTION,
        **dict.fromkeys(("t1", "t2", "t3", "t5", "t6"), TaskState.COMPLETED),
    }
    assert ended.state is RunState.FAILED
    keys = {task.id: task.key for task in tasks}
    said = {keys[result.task_id]: result for result in results}
    assert said["t1"].summary == said["t2"].summary == f"2 met in {server}"
    assert said["t5"].data == {"n": 3}
    assert said["t6"].summary.strip() == str(elsewhere)
    reminded = [keys[str(event.task_id)] for event in events if event.type == "session.reminded"]
    assert (reminded.count("t3"), reminded.count("t4")) == (2, 3)
    (never,) = [task for task in tasks if task.key == "t4"]
    assert never.cause is not None
    assert never.cause.code is CauseCode.NO_RESULT
    assert [event.data["path"] for event in events if event.type == "result.rejected"] == ["data.n"]
    assert any("BOB WAS HERE" in text for text in script.told["alice"][1:])
    assert script.offered == {
        "alice": ALWAYS | {"mcp__calc__meet"},
        "bob": ALWAYS | {"mcp__calc__meet"},
        "lazy": ALWAYS | {"read"},
        "never": ALWAYS | {"read"},
        "bad": ALWAYS,
        "where": ALWAYS | {"bash", "bash_output", "bash_kill"},
    }


async def test_fifty_calls_of_fifty_sessions_are_in_one_server_process_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, starts = home_with_server(tmp_path)

    def script(said: Conversation) -> Reply:
        if said.tool_results:
            return use("submit_result", summary=said.tool_results[0].text)
        return use("mcp__calc__meet", of=50)

    async with hosted(home, monkeypatch, script, width=50, process_sessions=50) as crew:
        run = await submitted(crew, *(ParallelTask(goal=f"go {n}", agent="meets") for n in range(50)))
        with anyio.fail_after(WAIT):
            ended = await crew.supervisor.execute(run.id)
        _, results, _ = await crew.writer.read(lambda store: after(store, run.id))
    (server,) = [path.stem for path in starts.iterdir()]
    assert ended.state is RunState.COMPLETED
    assert [result.summary for result in results] == [f"50 met in {server}"] * 50


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Provider-specific exceptions:DeprecationWarning")
async def test_cancelling_the_parents_turn_cancels_its_three_children_and_ends_their_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(said: Conversation) -> Reply:
        if said.offered("submit_result"):
            return use("bash", command="touch $CREW_SESSION.busy; sleep 20")
        if said.new_results or "start three" not in said.last_user:
            return team_script(said)
        tasks = [{"agent": "executor", "goal": f"sleep {number}"} for number in range(3)]
        return use("team", action="parallel", tasks=tasks)

    async with asyncio.timeout(WAIT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say("start three")
        await bub.until(lambda: len(list(bub.project.root.glob("*.busy"))) == 3)
        shells = await asyncio.to_thread(marked, bub.project.root)
        assert len(shells) >= 3
        await bub.framework.quit_via_channel_router("test:chat")
        (run,) = bub.store(lambda store: store.list_runs())
        await bub.until(lambda: bub.store(lambda store: store.load_run(run.id)).state is RunState.CANCELLED)
        tasks, _, _ = bub.store(lambda store: after(store, run.id))
        assert [task.state for task in tasks] == [TaskState.CANCELLED] * 3
        _, alive = await asyncio.to_thread(lambda: psutil.wait_procs(shells, timeout=8))
        assert alive == []
        await bub.say("good morning")
        assert "good morning" in await bub.hear("YOU SAID")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Provider-specific exceptions:DeprecationWarning")
async def test_what_a_person_says_meanwhile_reaches_the_parent_and_none_of_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(said: Conversation) -> Reply:
        if said.offered("submit_result"):
            return Reply(calls=team_script(said).calls, held=True)
        if said.user_texts and "LATE WORDS" in said.last_user:
            return Reply(text="HEARD LATE WORDS")
        if "use its own shell" in said.last_user and not said.new_results:
            return use("bash", command="echo hi-from-bash")
        return team_script(said)

    async with asyncio.timeout(WAIT), chat(tmp_path, monkeypatch, script) as bub:
        await bub.say("use its own shell")
        assert "hi-from-bash" in await bub.hear("TOOL SAID")
        await bub.say("use an agent for app.py")
        # The worker's, which is held; for a moment it was the parent's own.
        await bub.until(
            lambda: (
                bub.server.in_flight == 1
                and any(each.conversation.offered("submit_result") for each in bub.server.requests)
            )
        )
        await bub.say("LATE WORDS")
        bub.server.release()
        await bub.hear("HEARD LATE WORDS")
        worker = [
            each.conversation for each in bub.server.requests if each.conversation.offered("submit_result")
        ]
        assert worker
        assert not any("LATE WORDS" in text for one in worker for text in one.user_texts)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Provider-specific exceptions:DeprecationWarning")
@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (".crew/config.toml", "limits = [[[", "is not valid TOML"),
        (".crew/state/crew.db", "this is no database " * 500, "crew.db"),
        (".crew/agents/explorer.md", "---\nname: [\n---\n", "REPORT of"),
    ],
    ids=["settings", "store", "agent"],
)
async def test_what_is_broken_in_the_crews_files_does_not_end_a_turn_of_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, text: str, said: str
) -> None:
    file = tmp_path / "project" / path
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    async with asyncio.timeout(WAIT), chat(tmp_path, monkeypatch, team_script) as bub:
        await bub.say("good morning")
        assert "YOU SAID" in await bub.hear("good morning")
        await bub.say("use an agent for app.py")
        assert said in await bub.hear("TOOL SAID")
