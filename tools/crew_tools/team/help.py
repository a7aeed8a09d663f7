"""`help`: the actions, or one of them with its parameters."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from crew_plugin.host import ToolContext, ToolOutput
from crew_tools.params import Params
from crew_tools.team.actions import ACTIONS, Action, find_action

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "HelpParams", "act", "action_help"]


class HelpParams(Params):
    """What about."""

    topic: str | None = Field(default=None, description="help: an action.")


PARAMETERS = HelpParams


async def act(crew: "Crew", params: HelpParams, context: ToolContext) -> ToolOutput:
    """Explain."""
    if params.topic is not None:
        return ToolOutput(text="\n".join(action_help(find_action(params.topic))))
    lines = ["Actions of team:"]
    for action in ACTIONS.values():
        lines.append(f"{action.name}: {action.summary}")
        lines.append(f"    {action.example}")
    lines.append('action="help", topic=ACTION explains one with its parameters.')
    return ToolOutput(text="\n".join(lines))


def action_help(action: Action) -> Iterator[str]:
    """One action with its parameters, and how to do the same by hand."""
    from crew_tools.schemas.generate import flat_schema
    from crew_tools.team.dispatch import load_action

    schema = flat_schema(load_action(action).PARAMETERS)
    required = schema.get("required", ())
    yield f"{action.name}: {action.summary}"
    yield f"example: {action.example}"
    yield f"in the chat: {action.chat}"
    yield f"in a terminal: {action.cli}"
    for name, about in schema.get("properties", {}).items():
        facts = ["needed"] if name in required else []
        if "enum" in about:
            facts.append("one of " + ", ".join(about["enum"]))
        elif "type" in about:
            facts.append(str(about["type"]))
        if "default" in about:
            facts.append(f"default {about['default']}")
        yield f"  {name} ({'; '.join(facts)}): {about.get('description', '')}".rstrip()
