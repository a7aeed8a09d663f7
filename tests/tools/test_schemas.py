"""Generated files are current, simple, and cheap to load."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crew_plugin.manifest import load_manifest
from crew_tools.schemas import load_schema
from crew_tools.schemas.generate import all_schemas, rendered
from crew_tools.schemas.reference import reference
from crew_tools.team.actions import ACTIONS, from_words
from crew_tools.team.dispatch import load_action

ROOT = Path(__file__).resolve().parents[2]
UNIONS = {"anyOf", "oneOf", "allOf", "not", "$ref", "$defs"}


def keys(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        return set(schema) | {key for value in schema.values() for key in keys(value)}
    return {key for item in schema for key in keys(item)} if isinstance(schema, list) else set()


@pytest.mark.parametrize("name", sorted(all_schemas()))
def test_a_schema_file_is_what_its_model_says(name: str) -> None:
    current = json.loads(rendered(all_schemas()[name]))
    shown = load_schema(name)
    assert {
        "name": shown.name,
        "description": shown.description,
        "parameters": shown.parameters,
    } == current, "run: python -m crew_tools.schemas"


def test_the_reference_in_the_documentation_is_current() -> None:
    assert (ROOT / "docs" / "tools.md").read_text(encoding="utf-8") == reference(), (
        "run: python -m crew_tools.schemas --docs docs/tools.md"
    )


@pytest.mark.parametrize("name", sorted(all_schemas()))
def test_a_schema_is_one_flat_object_without_unions(name: str) -> None:
    parameters = load_schema(name).parameters
    assert parameters["type"] == "object"
    assert not keys(dict(parameters)) & UNIONS
    assert all(isinstance(about.get("type"), str) for about in parameters["properties"].values())


def test_every_parameter_of_every_action_is_in_the_schema_of_team() -> None:
    shown = set(load_schema("team").parameters["properties"])
    for action in ACTIONS.values():
        for name, field in load_action(action).PARAMETERS.model_fields.items():
            alias = field.validation_alias
            assert name in shown or any(str(choice) in shown for choice in getattr(alias, "choices", ())), (
                name
            )


def test_loading_the_tool_modules_imports_nothing_heavy() -> None:
    code = (
        "import sys, importlib\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "from crew_tools import team, crew_agent\n"
        "async def crew(): raise AssertionError\n"
        "assert [tool.name for tool in team.tools(crew)] == ['team']\n"
        "assert len(crew_agent.tools(crew)) == 3\n"
        "heavy = {'pydantic', 'rich', 'typer', 'yaml', 'psutil', 'anyio', 'jsonschema', 'mcp', 'regex',"
        " 'pathspec', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    modules = ["crew_tools.team", "crew_tools.crew_agent", "crew_tools.files"]
    assert set(modules) <= set(load_manifest().tool_modules)
    done = subprocess.run(
        [sys.executable, "-c", code, *modules],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": ":".join(str(ROOT / part) for part in (".", "tools"))},
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_every_example_of_the_table_is_accepted_by_its_action() -> None:
    from crew_tools.params import parse

    for action in ACTIONS.values():
        arguments = eval(f"dict({action.example})", {"true": True})
        assert arguments.pop("action") == action.name
        assert parse(load_action(action).PARAMETERS, arguments).dropped == ()


def test_every_terminal_command_of_the_table_exists() -> None:
    import shlex

    from crew_plugin.cli.table import COMMANDS

    known = {command.name: command for command in COMMANDS}
    for action in ACTIONS.values():
        words = shlex.split(action.cli)
        assert words[0] == "crew"
        if words[1].startswith("--"):
            continue
        flags = {flag for param in known[words[1]].all_params for flag in param.flags}
        assert [word for word in words[2:] if word.startswith("--") and word not in flags] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["status"], {"action": "status"}),
        (["status", "last"], {"action": "status", "run_id": "last"}),
        (["run", "fix it"], {"action": "run", "goal": "fix it"}),
        (["run", "review", "find", "bugs"], {"action": "run", "team": "review", "goal": "find bugs"}),
        (["cancel", "ab12", "explore"], {"action": "cancel", "run_id": "ab12", "task_id": "explore"}),
        ([], {"action": "list"}),
    ],
)
def test_words_of_a_chat_command_become_arguments(line: list[str], expected: dict[str, str]) -> None:
    assert from_words(line, {"width": "3"}) == {**expected, "width": "3"}
