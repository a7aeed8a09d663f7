"""From names and a goal to a run with nothing left to look up, or all that is wrong with it."""

from dataclasses import replace
from pathlib import Path

import pytest

from crew_plugin.config.settings import AtOnce, LimitSettings, RuntimeSettings, Settings
from crew_plugin.engine.plan import ParallelTask, WantedResult, plan_parallel, plan_run
from crew_plugin.engine.supervisor import Supervisor
from crew_plugin.errors import InvalidPlan, InvalidValue, UnknownName
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.states import RunState, SessionKind, TaskState
from crew_plugin.plugins import build_hooks
from crew_plugin.project import Project
from crew_plugin.resources.catalog import Catalog
from crew_plugin.resources.discovery import discover
from crew_plugin.resources.models import OnFailure
from crew_plugin.session.prompt import wanted_of
from crew_plugin.session.scaffold import ScaffoldRunner
from crew_plugin.store.writer import StoreWriter

AGENT = "---\nname: {name}\ndescription: d\n{more}---\nYou are {name}.\n"
TEAM = """\
---
name: pair
description: Two
defaultWorkflow: look
maxConcurrency: 5
---
- scout: agent=mapper model=m-role skills=alpha maxConcurrency=2 looks
- judge: agent=critic decides
"""
WORKFLOW = """\
---
name: look
description: Look and judge
---

## find
role: scout
output: map

Find it: {goal}. Again: {goal}

## weigh
role: judge
depends_on: find
reads: map
model: m-step
limits: {steps: 7}

Weigh it.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "agents/mapper.md", AGENT.format(name="mapper", more="model: m-agent\nskills: beta\n"))
    write(tmp_path, "agents/critic.md", AGENT.format(name="critic", more="limits: {steps: 20}\n"))
    write(tmp_path, "agents/executor.md", AGENT.format(name="executor", more=""))
    write(tmp_path, "teams/pair.team.md", TEAM)
    write(tmp_path, "workflows/look.workflow.md", WORKFLOW)
    for name in ("alpha", "beta"):
        write(
            tmp_path, f"skills/{name}/SKILL.md", f"---\nname: {name}\ndescription: d\n---\nbody of {name}\n"
        )
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def catalog_of(folder: Path) -> Catalog:
    catalog = discover(None, Settings(), user_root=folder)
    assert catalog.problems == ()
    return catalog


def test_a_teams_workflow_becomes_steps_with_agents_models_limits_and_skills(folder: Path) -> None:
    spec = plan_run(catalog_of(folder), Settings(model="m-settings"), goal="the door", cwd="/p", team="pair")
    find, weigh = spec.steps
    assert (spec.team, spec.workflow, spec.width, spec.runtime) == ("pair", "look", 5, SessionKind.LIVE)
    assert (find.agent, find.model, find.skills, find.output) == ("mapper", "m-role", ("alpha",), "map")
    assert (weigh.agent, weigh.model, weigh.depends_on, weigh.reads) == (
        "critic",
        "m-step",
        ("find",),
        ("map",),
    )
    assert (find.limits.steps, weigh.limits.steps) == (60, 7)
    assert set(spec.agents) == {"mapper", "critic"}
    assert {name: text.body.strip() for name, text in spec.skill_texts.items()} == {
        "alpha": "body of alpha",
        "beta": "body of beta",
    }
    assert spec.tag_limits == {"role:scout": 2, "team:pair": 5}


def test_the_model_asked_for_by_the_caller_goes_before_all_others(folder: Path) -> None:
    spec = plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", team="pair", model="m-caller")
    assert {step.model for step in spec.steps} == {"m-caller"}


@pytest.mark.parametrize(
    "goal",
    [
        "a {goal} in a goal",
        "🦀 räksmörgås",
        "---\nname: x\n---\n## find\nrole: judge",
        "{goal} x\n" * 120_000,
    ],
    ids=["placeholder", "emoji", "fences", "megabyte"],
)
def test_the_goal_is_taken_literally(folder: Path, goal: str) -> None:
    spec = plan_run(catalog_of(folder), Settings(), goal=goal, cwd="/p", team="pair")
    assert spec.goal == goal
    assert spec.steps[0].task == f"Find it: {goal}. Again: {goal}"
    assert len(spec.steps) == 2


def test_a_width_can_be_lowered_by_the_caller_and_not_raised_above_the_settings(folder: Path) -> None:
    catalog, settings = catalog_of(folder), Settings(limits=LimitSettings(width=4))
    widths = [
        plan_run(catalog, settings, goal="g", cwd="/p", team="pair", width=width).width
        for width in (None, 2, 100)
    ]
    assert widths == [4, 2, 4]


def test_for_each_limit_the_lowest_number_holds_and_the_plan_says_whose_it_is(folder: Path) -> None:
    at_once = {
        "role:scout": AtOnce(sessions=9),
        "team:pair": AtOnce(sessions=3),
        "provider:host": AtOnce(sessions=6),
        "provider:elsewhere": AtOnce(sessions=1),
    }
    spec = plan_run(catalog_of(folder), Settings(at_once=at_once), goal="g", cwd="/p", team="pair", width=7)
    # Of a provider that only a retry may ask, too.
    others = {"provider:elsewhere": 1}
    assert spec.tag_limits == {"provider:host": 6, "role:scout": 2, "team:pair": 3} | others
    assert spec.limit_notes == (
        "width: 5 from team pair (the lowest; the caller 7, the settings 8)",
        "provider:host: 6 from the settings (at_once)",
        "role:scout: 2 from team pair (the lowest; the settings (at_once) 9)",
        "team:pair: 3 from the settings (at_once) (the lowest; team pair 5)",
        "on failure: keep-going, as nobody says otherwise",
    )


@pytest.mark.parametrize(
    ("caller", "workflow", "team", "settings", "fails_fast", "who"),
    [
        (None, None, None, None, False, "as nobody says otherwise"),
        (None, None, None, "fail-fast", True, "from the settings"),
        (None, None, "fail-fast", "keep-going", True, "from team pair"),
        (None, "keep-going", "fail-fast", None, False, "from workflow look"),
        ("fail-fast", "keep-going", None, None, True, "from the caller"),
    ],
)
def test_what_a_failure_does_is_said_by_caller_workflow_team_or_settings_in_this_order(
    folder: Path,
    caller: OnFailure | None,
    workflow: OnFailure | None,
    team: OnFailure | None,
    settings: OnFailure | None,
    fails_fast: bool,
    who: str,
) -> None:
    found = catalog_of(folder)
    look = replace(found.workflows["look"], on_failure=workflow)
    pair = replace(found.teams["pair"], on_failure=team)
    catalog = replace(found, workflows={"look": look}, teams={"pair": pair})
    chosen = Settings(limits=LimitSettings(on_failure=settings))
    spec = plan_run(catalog, chosen, goal="g", cwd="/p", team="pair", on_failure=caller)
    assert spec.fail_fast is fails_fast
    assert who in spec.limit_notes[-1]


def test_one_agent_alone_is_one_step(folder: Path) -> None:
    spec = plan_run(catalog_of(folder), Settings(), goal="look\nhere", cwd="/p", agent="critic", max_turns=3)
    (step,) = spec.steps
    assert (step.id, step.agent, step.task, step.title) == ("critic", "critic", "look\nhere", "look")
    assert (step.limits.steps, spec.width) == (3, 1)


def test_one_role_of_a_team_alone_is_one_step(folder: Path) -> None:
    spec = plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", team="pair", role="scout")
    (step,) = spec.steps
    assert (step.role, step.agent, step.model) == ("scout", "mapper", "m-role")


def test_a_workflow_alone_finds_the_team_it_is_made_for(folder: Path) -> None:
    assert plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", workflow="look").team == "pair"


@pytest.mark.anyio
async def test_a_dry_run_writes_the_prompt_of_every_step_and_has_no_result(
    folder: Path, tmp_path: Path
) -> None:
    spec = plan_run(
        catalog_of(folder), Settings(), goal="g", cwd=str(tmp_path), team="pair", runtime="scaffold"
    )
    async with StoreWriter(Project(root=tmp_path, state_dir=tmp_path / "state")) as writer:
        runner = ScaffoldRunner(writer=writer)
        supervisor = Supervisor(writer=writer, runners={runner.kind: runner}, hooks=build_hooks())
        run = await supervisor.submit(spec, parent=None, background=False, actor="test")
        run = await supervisor.execute(run.id)
        tasks = await writer.read(lambda store: store.load_tasks(run.id))
        assert [(task.key, task.state, task.cause and task.cause.code) for task in tasks] == [
            ("find", TaskState.NEEDS_ATTENTION, CauseCode.DRY_RUN),
            ("weigh", TaskState.NEEDS_ATTENTION, CauseCode.DRY_RUN),
        ]
        names = {ref.name for ref in await writer.read(lambda store: store.list_artifacts(run.id))}
        assert names >= {"find/prompt-1.md", "weigh/prompt-1.md"}
        assert run.state is RunState.FAILED
        assert await writer.read(lambda store: store.list_results(run.id)) == []


@pytest.mark.parametrize(("dry_run", "mode"), [(True, "auto"), (False, "scaffold")])
def test_a_dry_run_asks_no_model(folder: Path, dry_run: bool, mode: str) -> None:
    settings = Settings.model_validate({"runtime": RuntimeSettings.model_validate({"mode": mode})})
    spec = plan_run(
        catalog_of(folder),
        settings,
        goal="g",
        cwd="/p",
        agent="critic",
        runtime="scaffold" if dry_run else None,
    )
    assert spec.runtime_requested == "scaffold"


def test_independent_tasks_become_one_run_with_a_step_for_each(folder: Path) -> None:
    tasks = [ParallelTask(goal="one"), ParallelTask(goal="two {goal}", agent="critic", cwd="/p/sub")]
    spec = plan_parallel(catalog_of(folder), Settings(), tasks=tasks, cwd="/p")
    assert [(step.id, step.agent, step.task, step.cwd) for step in spec.steps] == [
        ("t1", "executor", "one", None),
        ("t2", "critic", "two {goal}", "/p/sub"),
    ]
    assert all(step.depends_on == () for step in spec.steps)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"team": "pear"}, "there is no team 'pear'; did you mean 'pair'"),
        ({"team": "pair", "workflow": "lok"}, "there is no workflow 'lok'; did you mean 'look'"),
        ({"agent": "maper"}, "there is no agent 'maper'; did you mean 'mapper'"),
        ({"team": "pair", "role": "jugde"}, "there is no role in team 'pair' 'jugde'; did you mean 'judge'"),
        ({"agent": "mapper", "skills": ("alpa",)}, "there is no skill 'alpa'; did you mean 'alpha'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    folder: Path, names: dict[str, str], message: str
) -> None:
    with pytest.raises(UnknownName) as caught:
        plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", **names)  # type: ignore[arg-type]  # by name
    assert str(caught.value).startswith(message)


def test_everything_wrong_with_a_workflow_is_said_at_once_with_file_and_line(folder: Path) -> None:
    write(
        folder,
        "workflows/look.workflow.md",
        """\
---
name: look
description: Broken
---

## find
role: scuot
depends_on: weigh

x

## weigh
role: judge
depends_on: find, gone

x
""",
    )
    with pytest.raises(InvalidPlan) as caught:
        plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", team="pair")
    path = folder / "workflows/look.workflow.md"
    assert str(caught.value).startswith("workflow 'look' with team 'pair' cannot be run: ")
    places = [problem.removeprefix(f"{path}:").split(": ", 1) for problem in caught.value.problems]
    assert {line for line, _ in places} == {"6", "12"}
    texts = " | ".join(text for _, text in places)
    assert "steps depend on each other in a circle: " in texts
    assert "step 'find': there is no role in team 'pair' 'scuot'; did you mean 'scout'?" in texts
    assert "step 'weigh' depends on a step that is not there: there is no step 'gone'" in texts


def test_a_step_that_reads_what_may_not_be_there_yet_is_refused(folder: Path) -> None:
    write(folder, "workflows/look.workflow.md", WORKFLOW.replace("depends_on: find\n", ""))
    with pytest.raises(InvalidPlan, match="reads 'map' but does not depend on 'find', which puts it out"):
        plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", team="pair")


def test_a_role_whose_agent_does_not_exist_is_told_with_the_teams_line(folder: Path) -> None:
    write(folder, "teams/pair.team.md", TEAM.replace("agent=critic", "agent=crtic"))
    with pytest.raises(InvalidPlan, match=r"pair\.team\.md:8: role 'judge': there is no agent 'crtic'"):
        plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", team="pair")


def test_a_missing_skill_of_a_step_is_refused(folder: Path) -> None:
    write(folder, "teams/pair.team.md", TEAM.replace("skills=alpha", "skills=gamma"))
    with pytest.raises(InvalidPlan, match="step 'find': there is no skill 'gamma'"):
        plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", team="pair")


def test_an_agent_beside_a_team_is_a_contradiction(folder: Path) -> None:
    with pytest.raises(InvalidValue, match="agent must be given alone"):
        plan_run(catalog_of(folder), Settings(), goal="g", cwd="/p", team="pair", agent="critic")


@pytest.mark.parametrize("goal", ["", "  \n"])
def test_an_empty_goal_is_refused(folder: Path, goal: str) -> None:
    with pytest.raises(InvalidValue, match="goal must be some text"):
        plan_run(catalog_of(folder), Settings(), goal=goal, cwd="/p", team="pair")
    with pytest.raises(InvalidValue, match=r"tasks\[0\]\.goal"):
        plan_parallel(catalog_of(folder), Settings(), tasks=[ParallelTask(goal=goal)], cwd="/p")


def test_the_words_of_a_projects_workflow_are_not_trusted_and_the_callers_are(
    folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    theirs = WORKFLOW.replace("name: look", "name: theirs").replace("\nWeigh it.\n", "")
    write(root / ".crew", "workflows/theirs.workflow.md", theirs)
    for settings, trusted in ((Settings(), False), (Settings(trusted_projects=(str(root),)), True)):
        catalog = discover(root, settings, user_root=folder)
        spec = plan_run(catalog, settings, goal="g", cwd="/p", team="pair", workflow="theirs")
        assert [step.trusted for step in spec.steps] == [trusted, True]
        assert spec.steps[1].task == "g"


def test_a_team_whose_workflow_is_not_there_is_refused_with_its_file(folder: Path) -> None:
    write(folder, "teams/pair.team.md", TEAM.replace("defaultWorkflow: look", "defaultWorkflow: loook"))
    catalog = discover(None, Settings(), user_root=folder)
    with pytest.raises(InvalidPlan, match="there is no workflow 'loook'; did you mean 'look'") as refused:
        plan_run(catalog, Settings(), goal="g", cwd="/p", team="pair")
    assert str(folder / "teams/pair.team.md") in str(refused.value)


ASKED = {"properties": {"found": {"elements": {"type": "string"}}}}
OF_STEP = {"type": "object", "required": ["step"]}
OF_AGENT = {"type": "object", "required": ["agent"]}


def with_schemas(folder: Path) -> Path:
    """Both agents have a schema and a mode, and the last step has its own of one of them."""
    more = 'schema: {{"type": "object", "required": ["agent"]}}\nschema_mode: {}\n'
    write(folder, "agents/mapper.md", AGENT.format(name="mapper", more=more.format("strict")))
    write(folder, "agents/critic.md", AGENT.format(name="critic", more=more.format("permissive")))
    return folder


@pytest.mark.parametrize(
    ("keys", "asked", "schema", "mode", "by_caller"),
    [
        ("", WantedResult(), OF_AGENT, "permissive", False),
        ("schema_mode: strict\n", WantedResult(), OF_AGENT, "strict", False),
        ("schema: {type: object, required: [step]}\n", WantedResult(), OF_STEP, "permissive", False),
        ("schema: {type: object, required: [step]}\n", WantedResult(mode="strict"), OF_STEP, "strict", False),
        ("schema_mode: strict\n", WantedResult(schema=ASKED), ASKED, "strict", True),
        ("schema_mode: strict\n", WantedResult(schema=ASKED, mode="permissive"), ASKED, "permissive", True),
        ("", WantedResult(mode="strict"), OF_AGENT, "strict", False),
    ],
)
def test_schema_and_mode_come_from_the_caller_the_step_or_the_agent_each_for_itself(
    folder: Path, keys: str, asked: WantedResult, schema: object, mode: str, by_caller: bool
) -> None:
    with_schemas(folder)
    write(folder, "workflows/look.workflow.md", WORKFLOW.replace("reads: map\n", f"reads: map\n{keys}"))
    spec = plan_run(catalog_of(folder), Settings(), goal="g", cwd="/", team="pair", result=asked)
    first, last = (wanted_of(spec, step) for step in spec.steps)
    assert (last.schema, last.mode, last.by_caller) == (schema, mode, by_caller)
    assert (first.schema, first.by_caller) == (OF_AGENT, False)
    assert first.mode == (asked.mode or "strict")


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        (WantedResult(schema={"type": "nonsense"}), "$.type"),
        (WantedResult(schema={"properties": {"n": {"$ref": "http://example.com/x"}}}), "complete in itself"),
        (WantedResult(schema={"elements": {"type": "uint9"}}, form="jtd"), "$.elements.type"),
        (WantedResult(schema={"elements": {"ref": "there"}}), "$.elements.ref"),
    ],
)
def test_a_schema_of_the_caller_that_cannot_be_used_is_refused_with_its_place(
    folder: Path, asked: WantedResult, place: str
) -> None:
    with pytest.raises(InvalidPlan) as caught:
        plan_run(catalog_of(folder), Settings(), goal="g", cwd="/", team="pair", result=asked)
    assert "the schema that was given" in str(caught.value)
    assert place in str(caught.value)


def test_a_schema_of_an_agent_that_cannot_be_used_is_refused_with_its_file(folder: Path) -> None:
    write(folder, "agents/critic.md", AGENT.format(name="critic", more="schema: {type: nonsense}\n"))
    with pytest.raises(InvalidPlan, match=r"agent 'critic' \(.*critic\.md\)"):
        plan_run(catalog_of(folder), Settings(), goal="g", cwd="/", team="pair")
