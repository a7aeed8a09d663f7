"""The tools `crew_agent`, `crew_agent_result` and `crew_agent_steer`: one subagent, from its start on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from crew_plugin.errors import CrewError
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.records import Effect
from crew_tools.loading import load
from crew_tools.schemas import load_schema

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_tools.team import CrewSource

__all__ = ["tools"]


def tools(crew: "CrewSource") -> tuple[ToolSpec, ...]:
    """What this module offers to a host's model."""

    async def start(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        return await _called("crew_tools.subagent.start", crew, arguments, context)

    async def result(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        return await _called("crew_tools.subagent.result", crew, arguments, context)

    async def steer(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        return await _called("crew_tools.subagent.steer", crew, arguments, context)

    of_start, of_result = load_schema("crew_agent"), load_schema("crew_agent_result")
    of_steer = load_schema("crew_agent_steer")
    return (
        ToolSpec(
            name=of_start.name,
            description=of_start.description,
            parameters=of_start.parameters,
            execute=start,
            effect=Effect.EXTERNAL,
        ),
        ToolSpec(
            name=of_result.name,
            description=of_result.description,
            parameters=of_result.parameters,
            execute=result,
        ),
        ToolSpec(
            name=of_steer.name,
            description=of_steer.description,
            parameters=of_steer.parameters,
            execute=steer,
            effect=Effect.EXTERNAL,
        ),
    )


class _Called(Protocol):
    """A module behind one of the tools."""

    async def call(self, crew: "Crew", arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Do it."""
        ...


async def _called(
    name: str, crew: "CrewSource", arguments: Mapping[str, Any], context: ToolContext
) -> ToolOutput:
    try:
        return await cast("_Called", await load(name)).call(await crew(), arguments, context)
    except CrewError as error:
        raise ToolError(str(error)) from error
