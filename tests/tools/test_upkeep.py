"""The actions of `team` that look after what is stored: `inbox`, `forget`, `prune` and `cleanup`."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from crew_plugin.config import Settings
from crew_plugin.config.settings import SafetySettings
from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import Forgotten, NotAllowed, NotConfirmed
from crew_plugin.hookspecs import Publishing, Removing, Verdict, hookimpl
from crew_plugin.models.records import NewResult
from tests.tools.scripted import Scripted, caller, scripted_crew, team

pytestmark = pytest.mark.anyio


async def ended(scripted: Scripted, session: str = "chat") -> str:
    """A run of this session that is over."""
    done = await team(scripted, caller(session=session), action="run", agent="explorer", goal="x")
    return str(done.details["run_id"])


async def there(scripted: Scripted) -> set[str]:
    return {run.id for run in await scripted.crew.writer.read(lambda store: store.list_runs())}


async def test_the_inbox_lists_what_this_conversation_is_owed(scripted: Scripted) -> None:
    chat, other = caller(later=True), caller(later=True, session="other")
    for who in (chat, other):
        started = await team(scripted, who, action="run", agent="explorer", goal="x", background=True)
        await scripted.crew.supervisor.wait(started.details["run_id"], 10)

    output = await team(scripted, chat, action="inbox")

    rows = output.details["deliveries"]
    assert [row["task"] for row in rows] == [None, "explorer"]
    assert {row["session"] for row in rows} == {"chat"}
    assert "waits for its chat" in output.text
    await scripted.crew.writer.run(lambda store: store.acknowledge([row["id"] for row in rows], actor="host"))
    assert (await team(scripted, chat, action="inbox")).text == "nothing waits for anybody"
    assert "delivered" in (await team(scripted, chat, action="inbox", all=True)).text


async def test_the_inbox_says_until_when_results_wait_for_others(scripted: Scripted) -> None:
    release = anyio.Event()

    async def script(context: AttemptContext) -> NewResult:
        if "slow" in context.step.task:
            await release.wait()
        return NewResult(summary=context.step.task)

    scripted.script = script
    chat = caller(later=True)
    tasks = [{"goal": "quick", "agent": "explorer"}, {"goal": "slow", "agent": "explorer"}]
    started = await team(scripted, chat, action="parallel", tasks=tasks, background=True)
    with anyio.fail_after(10):
        # Between the result and the end of its task nothing is said yet.
        while "until" not in (output := await team(scripted, chat, action="inbox")).text:  # noqa: ASYNC110
            await anyio.sleep(0.01)  # the store only tells by being looked at

    (row,) = output.details["deliveries"]
    release.set()
    await scripted.crew.supervisor.wait(started.details["run_id"], 10)

    assert row["held"]
    assert "waits for the others of its group, until" in output.text
    assert not any(row["held"] for row in (await team(scripted, chat, action="inbox")).details["deliveries"])


async def test_a_run_is_forgotten_once_that_is_confirmed(scripted: Scripted) -> None:
    run_id = await ended(scripted)
    with pytest.raises(NotConfirmed, match=r"this would delete run .* for good.*say confirm=true"):
        await team(scripted, action="forget", run_id=run_id)
    assert await there(scripted) == {run_id}

    output = await team(scripted, action="forget", run_id=run_id, confirm=True, intent="a password")

    assert "is forgotten" in output.text
    assert output.details["counts"]["task"] == 1
    with pytest.raises(Forgotten, match=r"by session:chat \(a password\)"):
        await team(scripted, action="status", run_id=run_id)


async def test_hooks_keep_a_run_from_the_tool_too(scripted: Scripted, tmp_path: Path) -> None:
    class Keeps:
        @hookimpl
        def before_forget(self, event: Removing) -> Verdict:
            return Verdict(allow=False, reason=f"{event.actor} may not")

        @hookimpl
        def before_publish(self, event: Publishing) -> Verdict:
            return Verdict(allow=False, reason="it stays here")

        @hookimpl
        def before_cleanup(self, event: Removing) -> Verdict:
            return Verdict(allow=False, reason="not now")

    run_id = await ended(scripted)
    scripted.hooks.register(Keeps())
    with pytest.raises(NotAllowed, match="session:chat may not"):
        await team(scripted, action="forget", run_id=run_id, confirm=True)
    pruned = await team(scripted, action="prune", keep=0, confirm=True)
    with pytest.raises(NotAllowed, match="it stays here"):
        await team(scripted, action="export", run_id=run_id)
    path = scripted.crew.project.log_of(run_id)
    path.parent.mkdir(exist_ok=True)
    path.write_text("said", encoding="utf-8")
    with pytest.raises(NotAllowed, match="not now"):
        await team(scripted, action="cleanup", run_id=run_id, confirm=True)
    assert f"run {run_id} stays: a hook refused it" in pruned.text
    assert await there(scripted) == {run_id}
    assert path.exists()


async def test_neither_a_live_nor_a_foreign_run_is_forgotten(scripted: Scripted) -> None:
    release = anyio.Event()

    async def script(context: AttemptContext) -> NewResult:
        await release.wait()
        return NewResult(summary="done")

    foreign = await ended(scripted, "other")
    scripted.script = script
    chat = caller(later=True)
    live = (await team(scripted, chat, action="run", agent="explorer", goal="x", background=True)).details
    with pytest.raises(NotAllowed, match="only an ended run can be forgotten; cancel it first"):
        await team(scripted, chat, action="forget", run_id=live["run_id"], confirm=True, force=True)
    with pytest.raises(NotAllowed, match="belongs to the session other; say force"):
        await team(scripted, chat, action="forget", run_id=foreign, confirm=True)
    assert await there(scripted) == {foreign, live["run_id"]}
    release.set()
    await scripted.crew.supervisor.wait(live["run_id"], 10)


async def test_pruning_leaves_the_runs_of_other_conversations(scripted: Scripted) -> None:
    mine, foreign = await ended(scripted), await ended(scripted, "other")

    dry = await team(scripted, action="prune", keep=0, dry_run=True)
    with pytest.raises(NotConfirmed, match="this would delete run"):
        await team(scripted, action="prune", keep=0)
    done = await team(scripted, action="prune", keep=0, confirm=True)

    assert dry.details["would_forget"] == done.details["forgotten"] == [mine]
    assert await there(scripted) == {foreign}
    assert "no ended run" in (await team(scripted, action="prune", keep=0)).text
    forced = await team(scripted, action="prune", keep=0, force=True, confirm=True)
    assert forced.details["forgotten"] == [foreign]


async def test_cleaning_up_removes_what_is_left_and_says_who_did_so(scripted: Scripted) -> None:
    mine, foreign = await ended(scripted), await ended(scripted, "other")
    project = scripted.crew.project
    logs = [project.log_of(run_id) for run_id in (mine, foreign)]
    await anyio.Path(project.logs).mkdir()
    for log in logs:
        await anyio.Path(log).write_text("said")

    dry = await team(scripted, action="cleanup", dry_run=True)
    with pytest.raises(NotConfirmed, match="delete 1 log of runs that are over"):
        await team(scripted, action="cleanup")
    done = await team(scripted, action="cleanup", confirm=True, intent="tidy")

    assert dry.details["would_remove"]["logs"] == done.details["removed"]["logs"] == [f"{mine}.log"]
    assert [await anyio.Path(log).exists() for log in logs] == [False, True]
    (noted,) = await scripted.crew.writer.read(lambda store: store.list_upkeep(limit=5))
    assert (noted.actor, noted.reason) == ("session:chat", "tidy")
    with pytest.raises(NotAllowed, match="belongs to the session other; say force"):
        await team(scripted, action="cleanup", run_id=foreign, confirm=True)


@pytest.mark.parametrize("action", ["forget", "prune", "cleanup"])
async def test_where_the_settings_ask_for_an_intent_each_of_them_needs_one(
    tmp_path: Path, action: str
) -> None:
    async with scripted_crew(tmp_path, Settings(safety=SafetySettings(intent=True))) as scripted:
        run_id = await ended(scripted)
        log = anyio.Path(scripted.crew.project.log_of(run_id))
        await log.parent.mkdir()
        await log.write_text("said")
        words: dict[str, Any] = {"run_id": run_id} if action == "forget" else {}
        words |= {"keep": 0} if action == "prune" else {}

        with pytest.raises(NotConfirmed, match='say intent="WHY"'):
            await team(scripted, action=action, confirm=True, **words)

        assert await there(scripted) == {run_id}
        assert await log.exists()
