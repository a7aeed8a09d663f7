"""What comes with the package is whole, fits together and keeps the rules it preaches."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from crew_plugin.bundle import bundle_root
from crew_plugin.config import Settings
from crew_plugin.resources import Catalog, Kind, Resource, discover, render
from crew_plugin.resources.agentfile import parse_agent, parse_skill
from crew_plugin.resources.check import TOOL_NAMES, catalog_problems, step_problems
from crew_plugin.resources.keys import Notes, Place
from crew_plugin.resources.teamfile import parse_team
from crew_plugin.resources.workflowfile import parse_workflow

READ_ONLY = ("explorer", "reviewer", "security-reviewer", "verifier")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return discover(None, Settings(), user_root=tmp_path)


def test_every_builtin_loads_without_a_word(catalog: Catalog) -> None:
    assert (catalog.problems, catalog.notices, catalog.hidden) == ((), (), ())
    assert catalog_problems(catalog) == []


def test_every_file_in_the_bundle_is_one_of_them(catalog: Catalog) -> None:
    files = {
        path for kind in Kind for path in Path(str(bundle_root() / kind.folder)).rglob("*") if path.is_file()
    }
    assert files == {item.path for kind in Kind for item in catalog.of(kind).values()}


def test_the_promised_ones_are_there(catalog: Catalog) -> None:
    assert {*READ_ONLY, "executor"} == set(catalog.agents)
    assert set(catalog.teams) == set(catalog.workflows) == {"review", "fast-fix"}
    assert set(catalog.skills) == {"careful-editing", "evidence-first-review"}


def test_every_team_can_run_its_workflow_and_uses_every_role(catalog: Catalog) -> None:
    for team in catalog.teams.values():
        assert team.default_workflow is not None
        workflow = catalog.workflows[team.default_workflow]
        assert step_problems(workflow, team, team.roles) == []
        assert {step.role for step in workflow.steps} == set(team.roles)


def test_an_agent_that_only_reads_has_no_tool_that_changes_anything(catalog: Catalog) -> None:
    for name in READ_ONLY:
        assert catalog.agents[name].tools == ("read", "grep", "find", "ls")
    assert set(catalog.agents["executor"].tools) == TOOL_NAMES - {"submit_result", "irc"}


def test_the_two_reviews_run_side_by_side(catalog: Catalog) -> None:
    steps = {step.id: step for step in catalog.workflows["review"].steps}
    assert steps["code-review"].depends_on == steps["security-review"].depends_on == ("explore",)
    assert set(steps["verify"].depends_on) == {"code-review", "security-review"}


def test_a_skill_fits_into_a_prompt_whole(catalog: Catalog) -> None:
    assert [skill.name for skill in catalog.skills.values() if len(skill.body) > 1500] == []


def test_agents_and_skills_name_only_tools_that_exist(catalog: Catalog) -> None:
    texts = [agent.prompt for agent in catalog.agents.values()]
    texts += [skill.body for skill in catalog.skills.values()]
    texts += [step.task for workflow in catalog.workflows.values() for step in workflow.steps]
    words = {word for text in texts for word in re.findall(r"`([a-z_-]+)`", text)}
    fields = {"summary", "data", "error", "open", "low", "confirmed", "refuted", "unproven"}
    steps = {step.id for workflow in catalog.workflows.values() for step in workflow.steps}
    assert words - fields - steps <= TOOL_NAMES


def test_every_agent_says_its_limits_and_what_it_hands_in(catalog: Catalog) -> None:
    for agent in catalog.agents.values():
        assert "Your limits:" in agent.prompt
        assert "What you hand in:" in agent.prompt
        assert agent.schema is not None
        assert agent.schema_mode == "permissive"


def test_every_step_begins_with_a_line_that_can_name_it(catalog: Catalog) -> None:
    for workflow in catalog.workflows.values():
        for step in workflow.steps:
            first, _, rest = step.task.partition("\n\n")
            assert len(first) <= 80
            assert "\n" not in first
            assert "You receive" in rest
            assert "Leave" in rest


@pytest.mark.parametrize(
    ("kind", "parse"),
    [
        (Kind.AGENT, parse_agent),
        (Kind.TEAM, parse_team),
        (Kind.WORKFLOW, parse_workflow),
        (Kind.SKILL, parse_skill),
    ],
)
def test_every_builtin_survives_being_written(
    catalog: Catalog, kind: Kind, parse: Callable[[str, Notes], Resource]
) -> None:
    for item in catalog.of(kind).values():
        place = Place(path=item.path, root=item.path.parent, source=item.source, trusted=True)
        assert parse(render(item), Notes(place=place)) == item
