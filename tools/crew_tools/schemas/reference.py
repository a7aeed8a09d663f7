"""The reference of the tools, docs/tools.md, made from what the tools are made from."""

from collections.abc import Iterator, Mapping
from typing import Any

from crew_tools.schemas import ToolSchema
from crew_tools.schemas.generate import all_schemas, flat_schema
from crew_tools.team.actions import ACTIONS, Action
from crew_tools.team.dispatch import load_action

__all__ = ["reference"]

_OPENING = """\
# Tools

What a model can call. Generated from the tools themselves with
`python -m crew_tools.schemas --docs docs/tools.md`; edits here are lost.

A host's model gets `team`, `crew_agent`, `crew_agent_result` and `crew_agent_steer`. Every session of
the crew gets `submit_result` and `irc`, and of `read`, `grep`, `find` and `ls` those that its agent lists.

Empty strings, nulls and unknown keys count as unset. Numbers and truth values may come as text, lists
as JSON text. A wrong value gets an error that says what is allowed.
"""


def reference() -> str:
    """The whole page."""
    schemas = all_schemas()
    lines = [_OPENING]
    lines.extend(_team())
    for name in ("crew_agent", "crew_agent_result", "crew_agent_steer", "read", "grep", "find", "ls"):
        lines.extend(_tool(schemas[name]))
    return "\n".join(lines).rstrip("\n") + "\n"


def _team() -> Iterator[str]:
    yield "## team\n"
    yield "One tool with an `action`; everything else depends on it.\n"
    yield "| action | what it does | in the chat | in a terminal |"
    yield "|---|---|---|---|"
    for action in ACTIONS.values():
        link = f"[{action.name}](#team-{action.name})"
        yield f"| {link} | {action.summary} | `{action.chat}` | `{action.cli}` |"
    yield ""
    for action in ACTIONS.values():
        yield from _action(action)


def _action(action: Action) -> Iterator[str]:
    yield f"### team: {action.name}\n"
    yield f"{action.summary}\n"
    yield f"```text\nteam({action.example})\n```\n"
    yield from _parameters(flat_schema(load_action(action).PARAMETERS))


def _tool(schema: ToolSchema) -> Iterator[str]:
    yield f"## {schema.name}\n"
    yield f"{schema.description}\n"
    yield from _parameters(schema.parameters)


def _parameters(schema: Mapping[str, Any]) -> Iterator[str]:
    properties: Mapping[str, Any] = schema.get("properties", {})
    if not properties:
        return
    required = schema.get("required", ())
    yield "| parameter | type | default | |"
    yield "|---|---|---|---|"
    for name, about in properties.items():
        default = "needed" if name in required else _code(about.get("default"))
        yield f"| `{name}` | {_type(about)} | {default} | {about.get('description', '')} |"
    yield ""


def _type(about: Mapping[str, Any]) -> str:
    if "enum" in about:
        return "one of " + ", ".join(f"`{value}`" for value in about["enum"])
    if about.get("type") == "array":
        inner = ", ".join(f"`{name}`" for name in about["items"].get("properties", ()))
        return f"list of objects with {inner}" if inner else "list"
    low, high = about.get("minimum"), about.get("maximum")
    bounds = f" {low} to {high}" if low is not None and high is not None else ""
    return f"{about.get('type', 'any')}{bounds}"


def _code(default: object) -> str:
    return "" if default is None else f"`{default}`"
