"""The tool `team`: one tool, one table of actions, one module for each.

Hosts register what `tools` returns. The crew itself is asked for when the tool is called: a host
builds it at its first use.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from crew_plugin.errors import CrewError, InvalidValue
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.records import Effect
from crew_tools.loading import load
from crew_tools.schemas import load_schema
from crew_tools.team.actions import ACTIONS, Action, find_action

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["CrewSource", "run_action", "tools"]

type CrewSource = Callable[[], Awaitable["Crew"]]
"""Gives the crew of this process, built at its first use."""


def tools(crew: CrewSource) -> tuple[ToolSpec, ...]:
    """What this module offers to a host's model."""
    schema = load_schema("team")

    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        try:
            return await run_action(await crew(), arguments, context)
        except CrewError as error:
            raise ToolError(str(error)) from error

    return (
        ToolSpec(
            name=schema.name,
            description=schema.description,
            parameters=schema.parameters,
            execute=execute,
            effect=Effect.EXTERNAL,
        ),
    )


async def run_action(crew: "Crew", arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
    """One call of `team`. Raises `CrewError` with what the caller has to change."""
    action = _chosen(arguments)
    dispatch = cast("_Dispatch", await load("crew_tools.team.dispatch"))
    return await dispatch.dispatch(crew, action, arguments, context)


class _Dispatch(Protocol):
    """The module that knows what is behind each action."""

    async def dispatch(
        self, crew: "Crew", action: Action, arguments: Mapping[str, Any], context: ToolContext
    ) -> ToolOutput:
        """Do it."""
        ...


def _chosen(arguments: Mapping[str, Any]) -> Action:
    action = arguments.get("action")
    if isinstance(action, str) and action.strip():
        return find_action(action)
    if action or any(value not in (None, "", [], {}) for key, value in arguments.items() if key != "action"):
        # With arguments but without an action there is no telling what was meant.
        raise InvalidValue("action", action, ACTIONS)
    return ACTIONS["list"]
