"""`team`: looking at runs and resources, waiting, cancelling."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.errors import CallerError, NotAllowed, NotConfirmed, UnknownName
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.records import NewResult
from crew_plugin.models.states import RunState
from crew_plugin.testing.fake_runner import FakeAttempt, hangs
from tests.tools.scripted import PARENT, Scripted, caller, team

pytestmark = pytest.mark.anyio


async def background(scripted: Scripted, session: str = "chat") -> str:
    """A run that hangs until it is stopped, and has begun."""
    started = anyio.Event()

    async def script(attempt: FakeAttempt) -> Outcome:
        started.set()
        return await hangs()(attempt)

    scripted.runner.default = script
    output = await team(
        scripted,
        caller(later=True, session=session),
        action="run",
        agent="explorer",
        goal="x",
        background=True,
    )
    with anyio.fail_after(30):
        await started.wait()
    return str(output.details["run_id"])


@pytest.mark.parametrize("action", ["status", "summary", "wait", "events", "artifacts", "get"])
async def test_an_unknown_run_is_told_with_near_ones(scripted: Scripted, action: str) -> None:
    done = await team(scripted, action="run", agent="explorer", goal="x")
    wrong = done.details["run_id"][:-1] + "_"
    with pytest.raises(UnknownName, match=f"did you mean '{done.details['run_id']}'"):
        await team(scripted, action=action, run_id=wrong)
    with pytest.raises(UnknownName):
        await team(scripted, action="cancel", run_id=wrong)


# --- status, summary, wait -------------------------------------------------------------------


async def test_status_shows_every_task(scripted: Scripted) -> None:
    await team(scripted, action="run", team="review", goal="the goal")
    output = await team(scripted, action="status")
    assert output.details["state"] == "completed"
    for word in ("goal: the goal", "explore", "code-review", "security-review", "verify"):
        assert word in output.text


async def test_summary_shows_what_is_there_so_far(scripted: Scripted) -> None:
    run_id = await background(scripted)
    output = await team(scripted, action="summary", run_id=run_id)
    assert "running" in output.text
    assert f'action="wait", run_id="{run_id}" waits for it' in output.text


async def test_wait_gives_up_after_its_time_and_says_so(scripted: Scripted) -> None:
    run_id = await background(scripted)
    output = await team(scripted, action="wait", run_id=run_id, timeout="1")
    assert output.details["timed_out"] is True
    assert "Still under way after 1 s" in output.text


@pytest.mark.parametrize("timeout", [-1, 3601, "soon"])
async def test_wait_refuses_other_times(scripted: Scripted, timeout: object) -> None:
    with pytest.raises(CallerError, match="timeout must be a whole number from 1 to 3600"):
        await team(scripted, action="wait", timeout=timeout)


async def test_wait_answers_with_the_results_where_nothing_is_delivered(scripted: Scripted) -> None:
    done = await team(scripted, action="run", agent="explorer", goal="x")
    output = await team(scripted, action="wait", run_id=done.details["run_id"])
    assert "| explorer did: x" in output.text


async def test_waiting_for_a_result_that_comes_by_itself_does_not_double_it(scripted: Scripted) -> None:
    release = anyio.Event()

    async def script(context: AttemptContext) -> NewResult:
        await release.wait()
        return NewResult(summary="the precious result")

    scripted.script = script
    chat = caller(later=True)
    run_id = (await team(scripted, chat, action="run", agent="explorer", goal="x", background=True)).details[
        "run_id"
    ]
    release.set()
    output = await team(scripted, chat, action="wait", run_id=run_id)
    assert output.details["delivered_separately"] is True
    assert "completed" in output.text
    assert "precious" not in output.text

    def acknowledge(store: Any) -> None:
        store.acknowledge([row.id for row in store.list_deliveries(parent=PARENT)], actor="host")

    await scripted.crew.writer.run(acknowledge)
    assert "precious" in (await team(scripted, chat, action="wait", run_id=run_id)).text
    assert "precious" in (await team(scripted, chat, action="summary", run_id=run_id)).text


async def test_waiting_for_one_of_a_group_says_what_its_results_wait_for(scripted: Scripted) -> None:
    release = anyio.Event()

    async def script(context: AttemptContext) -> NewResult:
        if "slow" in context.step.task:
            await release.wait()
        return NewResult(summary="the precious result")

    scripted.script = script
    chat = replace(caller(later=True), parent=replace(PARENT, route={"turn": "turn_1"}))
    quick, slow = [
        (await team(scripted, chat, action="run", agent="explorer", goal=goal, background=True)).details[
            "run_id"
        ]
        for goal in ("quick", "slow")
    ]
    output = await team(scripted, chat, action="wait", run_id=quick)
    release.set()
    await team(scripted, chat, action="wait", run_id=slow)

    assert f"with those of {slow}, at " in output.text
    assert "precious" not in output.text


# --- cancel ----------------------------------------------------------------------------------


async def test_cancel_stops_a_run_with_the_reason(scripted: Scripted) -> None:
    run_id = await background(scripted)
    output = await team(scripted, action="cancel", run_id=run_id, reason="not needed")
    assert output.details["outcome"] == "cancelled"
    run = await scripted.crew.writer.read(lambda store: store.load_run(run_id))
    assert run.state is RunState.CANCELLED
    assert run.cause is not None
    assert run.cause.message == "not needed"


async def test_cancel_of_one_task_names_it(scripted: Scripted) -> None:
    run_id = await background(scripted)
    with pytest.raises(UnknownName):
        await team(scripted, action="cancel", run_id=run_id, task_id="nobody")
    output = await team(scripted, action="cancel", run_id=run_id, task="explorer")
    assert output.details["outcome"] == "cancelled"


async def test_a_run_of_another_conversation_needs_force(scripted: Scripted) -> None:
    run_id = await background(scripted, session="other")
    with pytest.raises(NotAllowed, match="force"):
        await team(scripted, action="cancel", run_id=run_id)
    assert (await scripted.crew.writer.read(lambda store: store.load_run(run_id))).state is RunState.RUNNING
    with pytest.raises(NotConfirmed, match=r"this would stop run .* the session other.*say confirm=true"):
        await team(scripted, action="cancel", run_id=run_id, force="true")
    assert (await scripted.crew.writer.read(lambda store: store.load_run(run_id))).state is RunState.RUNNING
    output = await team(scripted, action="cancel", run_id=run_id, force="true", confirm="true")
    assert output.details["state"] == "cancelled"


async def test_cancelling_what_is_over_changes_nothing_and_needs_a_run(scripted: Scripted) -> None:
    done = await team(scripted, action="run", agent="explorer", goal="x")
    output = await team(scripted, action="cancel", run_id=done.details["run_id"])
    assert output.details == {**output.details, "outcome": "already_ended", "state": "completed"}
    with pytest.raises(CallerError, match="run_id is needed"):
        await team(scripted, action="cancel")


# --- events and artifacts --------------------------------------------------------------------


async def test_events_show_the_newest_and_can_be_gone_through(scripted: Scripted) -> None:
    await team(scripted, action="run", agent="explorer", goal="x")
    newest = await team(scripted, action="events", limit=3)
    assert newest.text.splitlines()[-1].split()[2] == "run.completed"
    assert "earlier; after_seq=0" in newest.text
    first = await team(scripted, action="events", limit=2, after_seq="0")
    assert "run.created" in first.text
    rest = await team(scripted, action="events", limit=200, after_seq=first.details["next_seq"])
    assert "run.created" not in rest.text
    assert "run.completed" in rest.text


async def test_events_refuse_a_wrong_limit(scripted: Scripted) -> None:
    with pytest.raises(CallerError, match="limit must be a whole number from 1 to 200"):
        await team(scripted, action="events", limit=1000)


async def test_artifacts_are_listed_and_read(scripted: Scripted) -> None:
    async def script(context: AttemptContext) -> NewResult:
        return NewResult(summary="see the report", artifacts={"report.md": "# Report\nline"})

    scripted.script = script
    done = await team(scripted, action="run", agent="explorer", goal="x")
    assert "report.md (13 bytes)" in done.text
    listed = await team(scripted, action="artifacts", run_id=done.details["run_id"])
    (line,) = (line for line in listed.text.splitlines() if "report.md" in line)
    body = await team(scripted, action="artifacts", artifact=line.split()[0])
    assert body.text.endswith("characters 0 to 13 of 13\n| # Report\n| line")


async def test_artifacts_refuse_unknown_hashes_and_offsets(scripted: Scripted) -> None:
    await team(scripted, action="run", agent="explorer", goal="x")
    with pytest.raises(UnknownName):
        await team(scripted, action="artifacts", artifact="0123456789")
    with pytest.raises(CallerError, match="artifact must be"):
        await team(scripted, action="artifacts", artifact="0123")
    listed = await team(scripted, action="artifacts")
    sha = listed.text.splitlines()[1].split()[0]
    with pytest.raises(CallerError, match="is too far"):
        await team(scripted, action="artifacts", artifact=sha, offset=10**9)


# --- list, get, help -------------------------------------------------------------------------


async def test_list_shows_resources_with_source_and_problems_and_runs(
    scripted: Scripted, tmp_path: Path
) -> None:
    agents = tmp_path / ".crew" / "agents"
    agents.mkdir(parents=True)
    (agents / "own.md").write_text("---\nname: own\ndescription: Mine\n---\nDo things.\n")
    (agents / "broken.md").write_text("---\nname: [\n---\n")
    await team(scripted, action="run", agent="own", goal="the goal")
    output = await team(scripted, action="list")
    assert "  review (builtin): " in output.text
    assert "  own (project, not trusted): Mine" in output.text
    assert "broken.md" in output.text.partition("problems:")[2]
    assert "the goal" in output.text.partition("newest runs:")[2]
    agents_only = await team(scripted, action="list", resource="agent")
    assert "teams:" not in agents_only.text
    with pytest.raises(CallerError, match="resource must be one of: agent, team, workflow, skill, run"):
        await team(scripted, action="list", resource="plugin")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"agent": "explorer"}, ["agent explorer (builtin)", "prompt:\n| "]),
        ({"team": "review"}, ["team review (builtin)", "role verifier: agent verifier"]),
        ({"workflow": "review"}, ["2. code-review: role reviewer, after explore", "| "]),
        ({"resource": "skill", "name": "careful-editing"}, ["skill careful-editing (builtin)", "| "]),
    ],
)
async def test_get_shows_one_resource_in_full(
    scripted: Scripted, arguments: dict[str, str], words: list[str]
) -> None:
    output = await team(scripted, action="get", **arguments)
    for word in words:
        assert word in output.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name what to show"),
        ({"name": "review"}, "resource is needed"),
        ({"agent": "explorr"}, "did you mean 'explorer'"),
        ({"resource": "skill", "name": "nope"}, "there is no skill 'nope'"),
    ],
)
async def test_get_refuses_what_is_wrong(scripted: Scripted, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(CallerError, match=message):
        await team(scripted, action="get", **arguments)


async def test_get_shows_the_whole_result_of_a_task(scripted: Scripted) -> None:
    done = await team(scripted, action="run", team="review", goal="x")
    run_id = done.details["run_id"]
    output = await team(scripted, action="get", run_id=run_id, task="explore")
    assert "| explorer did: " in output.text
    with pytest.raises(CallerError, match=r"task_id is needed: run .* has the tasks explore, code-review"):
        await team(scripted, action="get", run_id=run_id)
    with pytest.raises(UnknownName, match="did you mean 'explore'"):
        await team(scripted, action="get", run_id=run_id, task_id="explor")


async def test_get_of_a_task_without_a_result_shows_its_last_text_as_unsubmitted(scripted: Scripted) -> None:
    async def script(context: AttemptContext) -> str:
        return "half a thought"

    scripted.script = script
    await team(scripted, action="run", agent="explorer", goal="x")
    output = await team(scripted, action="get", run_id="last")
    assert "UNSUBMITTED and unchecked:\n| half a thought" in output.text


async def test_help_explains_all_actions_or_one(scripted: Scripted) -> None:
    everything = await team(scripted, action="help")
    assert all(f"\n{name}: " in everything.text for name in ("run", "parallel", "cancel", "artifacts"))
    one = await team(scripted, action="help", topic="wait")
    assert "timeout (integer; default 300): " in one.text
    assert "in the chat: ,team wait RUN_ID TIMEOUT" in one.text
    with pytest.raises(CallerError, match="action must be one of"):
        await team(scripted, action="help", topic="flying")


# --- mail ------------------------------------------------------------------------------------


async def test_mail_of_one_task_is_read_and_acknowledged(scripted: Scripted) -> None:
    run_id = await background(scripted)
    (task,) = await scripted.crew.writer.read(lambda store: store.load_tasks(run_id))
    await scripted.crew.writer.run(
        lambda store: store.send_message(
            run_id, sender="operator", recipient=task.key, kind=MessageKind.MESSAGE, body="look at auth.py"
        )
    )
    read = await team(scripted, action="mail", task_id=task.key, box="inbox")
    assert f"operator -> {task.key}: waiting" in read.text
    assert "look at auth.py" in read.text
    ident = read.details["mail"][0]["id"]
    done = await team(scripted, action="mail", ack=ident)
    assert [each["state"] for each in done.details["mail"]] == ["read"]
    assert (await team(scripted, action="mail", task_id=task.key, ack="all")).details["mail"] == []
    with pytest.raises(NotAllowed, match="is read; only one that was delivered"):
        await team(scripted, action="mail", replay=ident)
    await team(scripted, action="cancel", run_id=run_id)


async def test_mail_is_looked_through_and_repaired_once(scripted: Scripted) -> None:
    run_id = await background(scripted)
    await scripted.crew.writer.run(
        lambda store: store.send_message(
            run_id, sender="operator", recipient="nobody", kind=MessageKind.MESSAGE, body="hello"
        )
    )
    looked = await team(scripted, action="mail", repair="look")
    assert "the run has no task 'nobody'; it was waiting and would be given up" in looked.text
    with pytest.raises(NotAllowed, match="force"):
        await team(scripted, caller(session="another"), action="mail", repair="do")
    done = await team(scripted, action="mail", repair="do")
    assert [each["becomes"] for each in done.details["findings"]] == ["dead"]
    assert (await team(scripted, action="mail", repair="do")).details["findings"] == []
    await team(scripted, action="cancel", run_id=run_id)


async def test_mail_refuses_what_makes_no_sense(scripted: Scripted) -> None:
    await background(scripted)
    with pytest.raises(CallerError, match="one of ack, replay, repair"):
        await team(scripted, action="mail", ack="x", repair="do")
    with pytest.raises(CallerError, match="the task_id whose inbox"):
        await team(scripted, action="mail", ack="all")
    with pytest.raises(UnknownName, match="mailbox"):
        await team(scripted, action="mail", task_id="nobody")
    await team(scripted, action="cancel", run_id="last")


async def test_a_body_that_is_not_kept_is_told_and_is_no_error(scripted: Scripted) -> None:
    done = await team(scripted, action="run", agent="explorer", goal="x")
    run_id = done.details["run_id"]
    ref = await scripted.crew.writer.run(
        lambda store: store.put_artifact(run_id, "log.txt", b"a log", log=True)
    )
    await scripted.crew.writer.run(
        lambda store: store.thin_run(run_id, actor="operator", because="it is old")
    )
    await scripted.crew.writer.run(lambda store: store.sweep_bodies())
    listed = await team(scripted, action="artifacts", run_id=run_id)
    assert "removed by policy on" in listed.text
    read = await team(scripted, action="artifacts", artifact=ref.sha256)
    assert "because it is old" in read.text
