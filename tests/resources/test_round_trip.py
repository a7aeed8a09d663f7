"""Writing a resource and reading it again gives the same resource, whatever it says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crew_plugin.resources import AgentFile, Resource, SkillFile, Source, TeamFile, WorkflowFile, render
from crew_plugin.resources.agentfile import parse_agent, parse_skill
from crew_plugin.resources.keys import Notes, Place
from crew_plugin.resources.teamfile import parse_team
from crew_plugin.resources.workflowfile import parse_workflow
from crew_plugin.resources.yamltext import BadText
from tests.resources import strategies

EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fresh() -> Notes:
    root = Path("/r")
    return Notes(place=Place(path=root / "x.md", root=root, source=Source.USER, trusted=True))


@EXAMPLES
@given(agent=strategies.AGENTS)
def test_an_agent_survives_being_written(agent: AgentFile) -> None:
    assert parse_agent(render(agent), fresh()) == agent


@EXAMPLES
@given(skill=strategies.SKILL_FILES)
def test_a_skill_survives_being_written(skill: SkillFile) -> None:
    assert parse_skill(render(skill), fresh()) == skill


@EXAMPLES
@given(team=strategies.TEAMS)
def test_a_team_survives_being_written(team: TeamFile) -> None:
    assert parse_team(render(team), fresh()) == team


@EXAMPLES
@given(workflow=strategies.WORKFLOWS)
def test_a_workflow_survives_being_written(workflow: WorkflowFile) -> None:
    assert parse_workflow(render(workflow), fresh()) == workflow


@EXAMPLES
@given(workflow=strategies.WORKFLOWS)
def test_windows_line_endings_do_not_change_what_is_read(workflow: WorkflowFile) -> None:
    text = render(workflow)
    assert parse_workflow(text.replace("\n", "\r\n"), fresh()) == workflow


WORDS = ["---", "name: x", "- a: agent=b", "## a", "role: x", "depends_on: b", "", "text", "  - x"]
LINES = st.lists(strategies.HOSTILE | st.sampled_from(WORDS) | st.text(max_size=15), max_size=12).map(
    "\n".join
)


@pytest.mark.parametrize("parse", [parse_agent, parse_skill, parse_team, parse_workflow])
def test_any_text_is_either_refused_with_a_line_or_read_and_written_the_same(
    parse: Callable[[str, Notes], Resource],
) -> None:
    @EXAMPLES
    @given(text=LINES | LINES.map(lambda lines: "---\nname: x\n---\n" + lines))
    def look(text: str) -> None:
        try:
            resource = parse(text, fresh())
        except BadText as error:
            refused = error
        else:
            assert parse(render(resource), fresh()) == resource
            return
        assert refused.message
        assert 0 <= refused.line <= text.count("\n") + text.count("\r") + 2

    look()
