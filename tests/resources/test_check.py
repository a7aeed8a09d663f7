"""What is told about resources that do not fit together."""

from pathlib import Path

import pytest

from crew_plugin.config import Settings
from crew_plugin.resources import Catalog, Problem, Role, WorkflowFile, discover
from crew_plugin.resources.check import catalog_problems, step_problems


def catalog_of(tmp_path: Path, files: dict[str, str]) -> Catalog:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return discover(None, Settings(), user_root=tmp_path)


def problems_of(workflow: WorkflowFile) -> list[Problem]:
    roles = {step.role: Role(name=step.role, agent=step.role) for step in workflow.steps}
    return step_problems(workflow, None, roles)


def workflow_lines(tmp_path: Path, body: str) -> list[str]:
    catalog = catalog_of(tmp_path, {"workflows/w.workflow.md": f"---\nname: w\n---\n{body}"})
    assert catalog.problems == ()
    return [f"{item.line}: {item.message}" for item in problems_of(catalog.workflows["w"])]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("## a\nrole: x\n\n## a\nrole: y\n", ["7: the step 'a' is already there, on line 4"]),
        (
            "## a\ndepends_on: b\n",
            ["4: step 'a' depends on a step that is not there: there is no step 'b'; known: a"],
        ),
        ("## a\ndepends_on: a\n", ["4: steps depend on each other in a circle: a -> a"]),
        (
            "## c\nrole: x\n\n## a\ndepends_on: b, c\n\n## b\ndepends_on: a\n",
            ["7: steps depend on each other in a circle: a -> b -> a"],
        ),
        (
            "## a\nreads: x\n",
            ["4: step 'a' reads what no step puts out: there is no output 'x'; none exists yet"],
        ),
        (
            "## a\noutput: x\n\n## b\nreads: x\n",
            ["7: step 'b' reads 'x' but does not depend on 'a', which puts it out; add it to depends_on"],
        ),
        ("## a\noutput: x\n\n## b\ndepends_on: a\n\n## c\ndepends_on: b\nreads: x\n", []),
        ("## a\noutput: x\n\n## b\noutput: x\n", ["7: steps 'a' and 'b' have the same output 'x'"]),
    ],
)
def test_a_workflow_that_cannot_be_run_is_told_with_the_line(
    tmp_path: Path, body: str, expected: list[str]
) -> None:
    assert workflow_lines(tmp_path, body) == expected


def test_a_schema_that_is_none_is_told(tmp_path: Path) -> None:
    (line,) = workflow_lines(tmp_path, "## a\nrole: x\nschema: {type: nonsense}\n")
    assert line.startswith("4: the schema of step 'a' cannot be run")


def test_a_very_long_chain_of_steps_is_no_problem(tmp_path: Path) -> None:
    steps = "\n".join(f"## s{at}\ndepends_on: s{at - 1}\n" for at in range(1, 2_000))
    assert workflow_lines(tmp_path, f"## s0\nrole: x\n\n{steps}") == []


def test_a_step_whose_role_the_team_lacks_is_told(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path,
        {
            "teams/t.team.md": "---\ndefault_workflow: w\n---\n- worker: agent=executor\n",
            "workflows/w.workflow.md": "---\nname: w\n---\n## s\nrole: worker\n\n## t\nrole: workr\n",
        },
    )
    team, workflow = catalog.teams["t"], catalog.workflows["w"]
    (problem,) = step_problems(workflow, team, team.roles)
    assert (problem.path.name, problem.line) == ("w.workflow.md", 7)
    assert "there is no role in team 't' 'workr'; did you mean 'worker'?" in problem.message
    (problem,) = catalog_problems(catalog)
    assert problem.path.name == "t.team.md"
    assert "its workflow 'w' cannot be run: step 't': there is no role 'workr'" in problem.message


def test_everything_that_does_not_fit_is_found_at_once(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path,
        {
            "agents/a.md": "---\ntools: read, serch, mcp__x__y, mcp__x__*\nskills: none-such\n---\nbody",
            "teams/lost.team.md": "---\nworkflow: lost\n---\n- a: agent=a skills=gone\n- b: agent=nobody\n",
            "workflows/w.workflow.md": "---\nname: w\n---\n## s\nrole: a\nskills: gone\n",
        },
    )
    found = [f"{item.path.name}:{item.line}: {item.message}" for item in catalog_problems(catalog)]
    assert [line.split(";")[0] for line in found] == [
        "a.md:0: there is no tool 'serch'",
        "a.md:0: there is no skill 'none-such'",
        "w.workflow.md:4: there is no skill 'gone'",
        "lost.team.md:4: there is no skill 'gone'",
        "lost.team.md:5: role 'b': there is no agent 'nobody'",
        "lost.team.md:0: its workflow cannot be run: there is no workflow 'lost'",
    ]
