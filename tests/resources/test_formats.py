"""What the files of agents, teams, workflows and skills may say, and how errors are told."""

from pathlib import Path

import pytest

from crew_plugin.models.spec import LimitsSpec
from crew_plugin.resources.agentfile import AGENT_KEYS, SKILL_KEYS, parse_agent, parse_skill
from crew_plugin.resources.files import read_text
from crew_plugin.resources.keys import Keys, Notes, Place
from crew_plugin.resources.models import LimitsPart, Source
from crew_plugin.resources.teamfile import TEAM_KEYS, parse_team
from crew_plugin.resources.workflowfile import STEP_KEYS, WORKFLOW_KEYS, parse_workflow
from crew_plugin.resources.yamltext import BadText


def notes_for(name: str, folder: Path | None = None) -> Notes:
    root = (folder or Path("/nowhere")).resolve()
    return Notes(place=Place(path=root / name, root=root, source=Source.USER, trusted=True))


def said(notes: Notes) -> list[str]:
    return [f"{item.line}: {item.message}" for item in notes.notices]


AGENT = """\
---
name: mapper
description: Maps things, nicely
model: openai:gpt-5
tools: read, "grep", find , read
skill: alpha
schemaMode: strict
schema: {type: object, properties: {a: {$ref: '#/properties/b'}}}
inheritProjectContext: true
system-prompt-mode: append
limits: {steps: 5, wallSeconds: 1.5}
---

# Heading

Do {goal}.
---
still the body
"""


def test_an_agent_is_read_in_any_spelling_of_its_keys() -> None:
    notes = notes_for("mapper.md")
    agent = parse_agent(AGENT, notes)
    assert said(notes) == []
    assert (agent.name, agent.description, agent.model) == ("mapper", "Maps things, nicely", "openai:gpt-5")
    assert agent.tools == ("read", "grep", "find")
    assert agent.skills == ("alpha",)
    assert agent.schema_mode == "strict"
    assert agent.schema is not None
    assert agent.project_context
    assert agent.append_prompt
    assert agent.limits == LimitsPart(steps=5, wall_seconds=1.5)
    assert agent.prompt == "# Heading\n\nDo {goal}.\n---\nstill the body"


def test_an_agent_as_a_run_stores_it_has_what_the_file_leaves_open_from_the_settings() -> None:
    spec = parse_agent(AGENT, notes_for("mapper.md")).to_spec(limits=LimitsSpec(steps=60, idle_seconds=9))
    assert spec.limits == LimitsSpec(steps=5, idle_seconds=9, wall_seconds=1.5)
    assert spec.schema_mode == "strict"
    assert spec.result_schema == {"type": "object", "properties": {"a": {"$ref": "#/properties/b"}}}
    assert spec.trusted


def test_an_untrusted_agent_can_lower_its_limits_and_not_raise_them() -> None:
    notes = notes_for("x.md")
    notes.place = Place(path=Path("/x/x.md"), root=Path("/x"), source=Source.PROJECT, trusted=False)
    agent = parse_agent("---\nlimits: {steps: 9000, wall_seconds: 5}\n---\nbody", notes)
    spec = agent.to_spec(limits=LimitsSpec())
    assert spec.limits == LimitsSpec(wall_seconds=5)
    assert not spec.trusted


@pytest.mark.parametrize("written", ["model:", "model: false", "model: null", "model: ''"])
def test_an_agent_without_a_model_inherits_one(written: str) -> None:
    assert parse_agent(f"---\n{written}\n---\nbody", notes_for("a.md")).model is None


def test_the_file_name_is_the_name_if_none_is_given() -> None:
    assert parse_agent("---\ndescription: x\n---\nbody", notes_for("some-agent.md")).name == "some-agent"


def test_windows_line_endings_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(b"\xef\xbb\xbf" + AGENT.replace("\n", "\r\n").encode())
    text = read_text(path, tmp_path.resolve())
    assert parse_agent(text, notes_for("a.md")) == parse_agent(AGENT, notes_for("a.md"))


def test_keys_that_nothing_acts_on_yet_are_kept_and_said() -> None:
    notes = notes_for("a.md")
    text = "---\nthinking: high\nfallbackModels: [a, b]\ntols: read\n---\nbody"
    agent = parse_agent(text, notes)
    assert agent.extras == {"thinking": "high", "fallback_models": ["a", "b"], "tols": "read"}
    assert said(notes) == [
        "2: 'thinking' is accepted, not used yet",
        "3: 'fallback_models' is accepted, not used yet",
        "4: unknown key 'tols'; did you mean 'tools'? (kept, not used)",
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("hello", 1, "must begin with a line '---'"),
        ("---\nname: x\n", 1, "never closed"),
        ("---\nname: x\n---\n \n", 4, "no text after the frontmatter"),
        ("---\nname: x\ndescription: a: b\n---\nbody", 3, "not valid YAML"),
        ("---\nname: a b\n---\nbody", 2, "'name' must be a name"),
        ("---\nname: x\nname: y\n---\nbody", 3, "'name' is given twice"),
        ("---\nskills: a\nskill: b\n---\nbody", 3, "'skills' is given twice (again as 'skill')"),
        ("---\ndescription: 12\n---\nbody", 2, "must be text"),
        ("---\n\ntools: [read, 3]\n---\nbody", 3, "3 is not a name"),
        ("---\ntools: {a: b}\n---\nbody", 2, "a list, or names with commas"),
        ('---\ntools: "a\\rb"\n---\nbody', 2, "a list, or names with commas"),
        ("---\nschema_mode: lax\n---\nbody", 2, "one of permissive, strict"),
        ("---\nproject_context: 1\n---\nbody", 2, "true or false"),
        ("---\nlimits: {steps: 0}\n---\nbody", 2, "a whole number from 1 to 10000"),
        ("---\nlimits: {step: 4}\n---\nbody", 2, "has no 'step'"),
        ("---\nlimits: {wall_seconds: -1}\n---\nbody", 2, "seconds above 0"),
        ("---\nlimits: 4\n---\nbody", 2, "must be lines of"),
        ("---\ndisabled: true\nenabled: true\n---\nbody", 3, "not both"),
        ("---\nschema: 4\n---\nbody", 2, "a JSON Schema, or the name of a file"),
        ("---\nschema: {$ref: 'http://x/y'}\n---\nbody", 2, "may only point into the schema itself"),
        ("---\nschema: ../../etc/passwd\n---\nbody", 2, "cannot be read"),
        ("---\na: &x [1]\nb: *x\n---\nbody", 3, "anchors and aliases"),
        ("---\na: !!python/name:os.system\n---\nbody", 2, "tag"),
        ("---\na: " + "[" * 200_000 + "\n---\nbody", 2, "nested deeper than 32"),
        ("---\na: " + "9" * 5_000 + "\n---\nbody", 2, "not a usable number"),
        ("---\n- a\n---\nbody", 2, "key: value"),
        ("---\n1: a\n---\nbody", 2, "a key must be text"),
    ],
)
def test_what_is_wrong_with_an_agent_is_told_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(BadText) as caught:
        parse_agent(text, notes_for("x.md"))
    assert message in caught.value.message
    assert caught.value.line == line


def test_a_schema_can_stand_in_a_file_beside_the_agent(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{\n\t"type": "object"\n}', encoding="utf-8")
    notes = notes_for("a.md", tmp_path)
    agent = parse_agent("---\nschema: out.json\n---\nbody", notes)
    assert agent.schema is not None
    assert agent.schema.body == {"type": "object"}
    assert notes.files == [tmp_path.resolve() / "out.json"]


def test_a_skill_keeps_information_for_people_without_a_word() -> None:
    notes = notes_for("careful/SKILL.md")
    skill = parse_skill("---\ndescription: x\nlicense: MIT\n---\n\nDo it well.\n", notes)
    assert (skill.name, skill.body, skill.extras) == ("careful", "Do it well.", {"license": "MIT"})
    assert said(notes) == []


TEAM = """\
---
name: pair
workflow: fast-fix
maxConcurrency: 2
---

Two of them.

- lead: agent=planner model=openai:x skills=a,b maxConcurrency=3 decides what is done
- worker: agent=executor skills=false does it: all of it
- watcher:
- odd: agent=executor model="two words" -- x=1 is its favourite
- and a note without a colon
"""


def test_a_team_has_a_role_on_each_line_and_text_around() -> None:
    team = parse_team(TEAM, notes_for("pair.team.md"))
    assert (team.name, team.default_workflow, team.max_concurrency) == ("pair", "fast-fix", 2)
    assert team.notes == "Two of them.\n\n- and a note without a colon"
    lead, worker, watcher, odd = team.roles.values()
    assert (lead.agent, lead.model, lead.skills, lead.max_concurrency) == (
        "planner",
        "openai:x",
        ("a", "b"),
        3,
    )
    assert lead.description == "decides what is done"
    assert (worker.skills, worker.description) == (False, "does it: all of it")
    assert (watcher.agent, watcher.description, watcher.line) == ("watcher", "", 11)
    assert (odd.model, odd.description) == ("two words", "x=1 is its favourite")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("nobody", "has no role"),
        ("- a: agent=x\n- a: agent=y", "given twice"),
        ("- a: agnt=x", "a role has no 'agnt'"),
        ("- a: agent=x agent=y", "'agent' is given twice"),
        ("- a: agent=../x", "must be a name"),
        ("- a: max_concurrency=many", "a whole number"),
        ('- a: model="x', "is not a key with a value"),
        ('- a: model="\\q"', "cannot be read"),
        ("- a agent=x", "a role is written"),
        ("  - a.b: agent=x", "a role is written"),
    ],
)
def test_what_is_wrong_with_a_role_is_told(body: str, message: str) -> None:
    with pytest.raises(BadText, match=r"line \d+: ") as caught:
        parse_team(f"---\nname: t\n---\n{body}\n", notes_for("t.team.md"))
    assert message in caught.value.message


WORKFLOW = """\
---
name: two
maxConcurrency: 3
---

For people.

## Not a step

It says so: no.

## look

role: explorer
output: map.md
limits:
  steps: 4
parallelGroup: x

Look at {goal}.

## Findings

Write them under this heading.

## act
dependsOn: look
reads: map.md
attention: pass
optional: true
skills: false
model: false
verify: true
"""


def test_a_workflow_has_a_step_for_each_heading_that_a_key_follows() -> None:
    notes = notes_for("two.workflow.md")
    workflow = parse_workflow(WORKFLOW, notes)
    assert workflow.notes == "For people.\n\n## Not a step\n\nIt says so: no."
    look, act = workflow.steps
    assert (look.id, look.role, look.output, look.limits.steps) == ("look", "explorer", "map.md", 4)
    assert look.task == "Look at {goal}.\n\n## Findings\n\nWrite them under this heading."
    assert (act.role, act.depends_on, act.reads) == ("act", ("look",), ("map.md",))
    assert (act.attention, act.optional, act.skills, act.model, act.task) == ("pass", True, False, None, "")
    assert said(notes) == [
        "18: 'parallel_group' is accepted, not used yet",
        "33: 'verify' is accepted, not used yet",
    ]
    assert (look.line, act.line) == (12, 26)


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("prose", 4, "has no step"),
        ("## a b\nrole: x\n", 4, "cannot be a step's id"),
        ("## a\nrole: x\nattention: maybe\n", 6, "one of skip, pass"),
        ("## a\nrole: x\nthis is prose\n", 6, "not valid YAML"),
        ("## a\nrole: x\noutput: a/b\n", 6, "must be a name"),
        ("## a\ntask: x\n\ny\n", 5, "the task is given twice"),
        ("## a\nrole: x\n\n## b\nreads: [../x]\n", 8, "is not a name"),
        ("## a\nskills: true\n", 5, "a list, or names"),
    ],
)
def test_what_is_wrong_with_a_step_is_told_with_its_line(body: str, line: int, message: str) -> None:
    with pytest.raises(BadText) as caught:
        parse_workflow(f"---\nname: w\n---\n{body}", notes_for("w.workflow.md"))
    assert message in caught.value.message
    assert caught.value.line == line


def test_a_step_that_yaml_reads_differently_in_its_prose_is_left_alone() -> None:
    text = "---\nname: w\n---\n## a\nrole: x\n\ntask: not a key here\n## b: no\n"
    (step,) = parse_workflow(text, notes_for("w.workflow.md")).steps
    assert step.task == "task: not a key here\n## b: no"


DOCUMENTED = (Path(__file__).resolve().parent.parent.parent / "docs" / "resources.md").read_text(
    encoding="utf-8"
)


@pytest.mark.parametrize("keys", [AGENT_KEYS, SKILL_KEYS, TEAM_KEYS, WORKFLOW_KEYS, STEP_KEYS])
def test_every_key_is_in_the_guide(keys: Keys) -> None:
    words = {*keys.used, *keys.waiting, *keys.plain}
    assert [word for word in sorted(words) if f"`{word}`" not in DOCUMENTED] == []
