"""Dry runs, and what is collected for a prompt."""

from typing import Any

import pytest

from crew_plugin.models.causes import CauseCode
from crew_plugin.models.spec import StepSpec
from crew_plugin.models.states import AttemptState
from crew_plugin.session.material import project_instructions
from crew_plugin.session.scaffold import ScaffoldRunner
from crew_plugin.testing.conversation import Reply, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

TWO = (
    StepSpec(id="first", role="a", agent="worker", task="Begin.", output="map", attention="pass"),
    StepSpec(
        id="second", role="b", agent="worker", task="Go on.", depends_on=("first",), reads=("map", "lost")
    ),
)


def submit(**arguments: Any) -> Any:
    return lambda _: Reply(calls=(ToolUse(name="submit_result", arguments=arguments),))


async def first_message(stage: Any, key: str) -> str:
    engine = FakeEngine(script=submit(summary="ok"))
    await stage.execute(engine.script, key=key, engine=engine)
    return str(engine.sessions[0].messages[1]["content"])


async def test_a_dry_run_keeps_the_prompt_and_asks_no_model(stage: Any) -> None:
    context = await stage.attempt()
    runner = ScaffoldRunner(writer=stage.writer)
    outcome = await runner.run(context)
    assert outcome.cause is not None
    assert (outcome.state, outcome.cause.code) == (AttemptState.NEEDS_ATTENTION, CauseCode.DRY_RUN)
    session = await stage.writer.read(lambda store: store.load_session(context.attempt.session_id))
    prompt = (await stage.writer.read(lambda store: store.read_artifact(session.prompt.sha256))).decode()
    assert "Do it." in prompt
    assert session.prompt.sha256[:12] in await stage.text_of(outcome)
    await stage.settle(context, outcome)


async def test_a_dry_run_reports_a_schema_that_cannot_be_used(make_stage: Any) -> None:
    stage = await make_stage(step={"result_schema": {"type": "nonsense"}})
    outcome = await ScaffoldRunner(writer=stage.writer).run(await stage.attempt())
    assert outcome.state is AttemptState.FAILED
    assert outcome.cause is not None
    assert "nonsense" in outcome.cause.message


async def test_a_step_gets_summary_data_and_artifacts_of_what_it_depends_on(make_stage: Any) -> None:
    stage = await make_stage(TWO)
    script = submit(summary="SUMMARY", data={"n": 7}, artifacts={"map.md": "WHOLE MAP"})
    await stage.execute(script, key="first")
    first = await first_message(stage, "second")
    for text in ("## From `first`", "SUMMARY", '"n": 7', "artifact map.md:\nWHOLE MAP"):
        assert text in first
    assert first.count("SUMMARY") == 1  # both depended on and read by the name of its output
    assert "## From `lost`\nNothing has this name." in first


async def test_a_last_text_that_is_passed_on_is_marked_as_unsubmitted(make_stage: Any) -> None:
    stage = await make_stage(TWO)
    await stage.execute(lambda _: Reply(text="probably auth.py"), key="first")
    first = await first_message(stage, "second")
    assert first.index("ended WITHOUT handing in a result") < first.index("probably auth.py")


async def test_a_task_that_left_nothing_says_why(make_stage: Any) -> None:
    steps = (TWO[0].model_copy(update={"attention": "skip"}), TWO[1])
    stage = await make_stage(steps)
    await stage.execute(submit(error="no access"), key="first")
    assert "It left nothing: failed (the agent reported: no access)." in await first_message(stage, "second")


async def test_a_goal_of_a_megabyte_is_kept_whole_beside_the_prompt(make_stage: Any) -> None:
    goal = "🦊 {goal} " + "g" * 1_000_000
    stage = await make_stage(TWO, goal=goal)
    engine = FakeEngine(script=submit(summary="ok"))
    await stage.execute(engine.script, key="first", engine=engine)
    system = engine.sessions[0].messages[0]["content"]
    assert len(system) < 60_000
    artifacts = await stage.writer.read(lambda store: store.list_artifacts(stage.run.id))
    [kept] = [artifact for artifact in artifacts if artifact.name == "goal.md"]
    assert kept.sha256[:12] in system
    assert (await stage.writer.read(lambda store: store.read_artifact(kept.sha256))).decode() == goal


async def test_the_project_s_instructions_are_read_unless_the_agent_wants_none(make_stage: Any) -> None:
    stage = await make_stage()
    (stage.folder / "AGENTS.md").write_text("Run make check.", encoding="utf-8")
    engine = FakeEngine(script=submit(summary="ok"))
    await stage.execute(engine.script, engine=engine)
    assert "Run make check." in engine.sessions[0].messages[0]["content"]
    stage = await make_stage(agent={"project_context": False})
    engine = FakeEngine(script=submit(summary="ok"))
    await stage.execute(engine.script, engine=engine)
    assert "Run make check." not in engine.sessions[0].messages[0]["content"]


async def test_instructions_that_lead_out_of_the_folder_are_not_read(tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key", encoding="utf-8")
    project = tmp_path / "project"
    project.mkdir()
    (project / "AGENTS.md").symlink_to(secret)
    assert project_instructions(str(project)) is None
    assert project_instructions(str(tmp_path / "nowhere")) is None
