"""Resources of every shape that can be read from a file."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from crew_plugin.resources import AgentFile, LimitsPart, Role, SkillFile, Source, Step, TeamFile, WorkflowFile
from crew_plugin.resources.agentfile import AGENT_KEYS, SKILL_KEYS
from crew_plugin.resources.keys import Keys, tidy
from crew_plugin.resources.models import ResultSchema
from crew_plugin.resources.teamfile import TEAM_KEYS
from crew_plugin.resources.workflowfile import STEP_KEYS, WORKFLOW_KEYS

PLACE: dict[str, Any] = {"path": Path("/r/x.md"), "source": Source.USER, "trusted": True}

HOSTILE = st.sampled_from(
    [
        "---",
        "--- x",
        "\n---\n",
        "a: b",
        "{goal}",
        "{{goal}}",
        "- agent: agent=x",
        "-- x",
        "x=1",
        "## step\nrole: x",
        "## step\n\nrole: x\n\ntext",
        "# heading",
        "```\n## a\nrole: b\n```",
        "é ü 漢字 🙂 \u202e",
        "\r\n",
        "a\rb",
        "\x00\x07\x1b[31m",
        "\x85\u2028\u2029\ufeff",
        "'single' \"double\" \\back",
        "yes",
        "null",
        "~",
        "1e3",
        "0x1f",
        "2024-01-01",
        "<<",
        "=",
        "*alias",
        "&anchor",
        "!tag",
        "%dir",
        "@at",
        "`tick`",
        "? q",
        "# comment",
        "a #comment",
        "[x",
        "{x",
        " lead and trail ",
        "\ttab",
        "x" * 300,
    ]
)
TEXT = st.lists(HOSTILE | st.text(max_size=10), max_size=3).map("".join)
NAME = st.text("abcXYZ019", min_size=1, max_size=3) | st.sampled_from(["a-b", "9_-", "no", "1e3", "x" * 80])
OUTPUT = NAME | st.sampled_from(["map.md", "a.b-c_d"])
TOOL = NAME | st.sampled_from(["read", "mcp__a__b", "mcp__a__*"])
BODY = TEXT.map(tidy)
GIVEN_BODY = BODY.filter(bool)
ONE_LINE = TEXT.map(lambda text: tidy(text.replace("\n", " ").replace("\r", " ")))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)
SCHEMA = st.dictionaries(TEXT.filter(lambda key: "$" not in key), JSON, max_size=2).map(
    lambda body: ResultSchema(body=body)
)
SKILLS = st.none() | st.just(False) | st.lists(NAME, min_size=1, max_size=3, unique=True).map(tuple)
MODE = st.none() | st.sampled_from(["permissive", "strict"])
MODEL = st.none() | TEXT.filter(bool)
WIDTH = st.none() | st.integers(1, 1024)
SECONDS = st.none() | st.floats(min_value=1e-6, allow_infinity=False) | st.integers(1, 10**6)
POLICY = st.none() | st.sampled_from(["keep-going", "fail-fast"])
RESOURCES = st.lists(NAME | st.sampled_from(["port:8080", "db/main"]), max_size=3, unique=True).map(tuple)
LIMITS = st.builds(
    LimitsPart,
    steps=st.none() | st.integers(1, 10_000),
    requests=st.none() | st.integers(1, 100_000),
    stuck_steps=st.none() | st.integers(4, 1000),
    idle_seconds=SECONDS,
    tool_seconds=SECONDS,
    turn_seconds=SECONDS,
    wall_seconds=SECONDS,
    model_retries=st.none() | st.integers(0, 20),
    attempts=st.none() | st.integers(1, 10),
)


def names(name: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(name, max_size=4, unique=True).map(tuple)


def extras(keys: Keys) -> st.SearchStrategy[dict[str, Any]]:
    unknown = TEXT.filter(lambda key: keys.canonical(key) is None)
    return st.dictionaries(st.sampled_from(sorted(keys.waiting | keys.plain)) | unknown, JSON, max_size=2)


AGENTS = st.builds(
    AgentFile,
    name=NAME,
    description=TEXT,
    prompt=GIVEN_BODY,
    model=MODEL,
    tools=names(TOOL),
    skills=names(NAME),
    schema=st.none() | SCHEMA,
    schema_form=st.sampled_from(["auto", "json-schema", "jtd"]),
    schema_mode=MODE,
    project_context=st.booleans(),
    append_prompt=st.booleans(),
    limits=LIMITS,
    disabled=st.booleans(),
    extras=extras(AGENT_KEYS),
    **{key: st.just(value) for key, value in PLACE.items()},
)
SKILL_FILES = st.builds(
    SkillFile,
    name=NAME,
    description=TEXT,
    body=GIVEN_BODY,
    extras=extras(SKILL_KEYS),
    **{key: st.just(value) for key, value in PLACE.items()},
)
ROLES = st.builds(
    Role,
    name=NAME,
    agent=NAME,
    description=ONE_LINE,
    model=st.none() | ONE_LINE.filter(bool),
    skills=SKILLS,
    max_concurrency=WIDTH,
)
PROSE = st.lists(st.sampled_from(["Some words.", "", "- a bullet", "## A heading", "x: y"]), max_size=4).map(
    lambda lines: tidy("\n".join(lines))
)
TEAMS = st.builds(
    TeamFile,
    name=NAME,
    description=TEXT,
    default_workflow=st.none() | NAME,
    max_concurrency=WIDTH,
    on_failure=POLICY,
    roles=st.lists(ROLES, min_size=1, max_size=4, unique_by=lambda role: role.name).map(
        lambda roles: {role.name: role for role in roles}
    ),
    notes=PROSE,
    extras=extras(TEAM_KEYS),
    **{key: st.just(value) for key, value in PLACE.items()},
)
STEPS = st.builds(
    Step,
    id=NAME,
    role=NAME,
    task=BODY,
    depends_on=names(NAME),
    reads=names(OUTPUT),
    output=st.none() | OUTPUT,
    optional=st.booleans(),
    attention=st.sampled_from(["skip", "pass"]),
    model=MODEL,
    skills=SKILLS,
    verify=st.booleans(),
    schema=st.none() | SCHEMA,
    schema_form=st.sampled_from(["auto", "json-schema", "jtd"]),
    schema_mode=MODE,
    limits=LIMITS,
    resources=RESOURCES,
    extras=extras(STEP_KEYS),
)
WORKFLOWS = st.builds(
    WorkflowFile,
    name=NAME,
    description=TEXT,
    steps=st.lists(STEPS, min_size=1, max_size=3).map(tuple),
    max_concurrency=WIDTH,
    on_failure=POLICY,
    notes=PROSE,
    extras=extras(WORKFLOW_KEYS),
    **{key: st.just(value) for key, value in PLACE.items()},
)
