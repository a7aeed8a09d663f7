"""The tools `crew_agent` and `crew_agent_result`: one subagent, awaited or in the background."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crew_plugin.errors import CrewError
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.records import Effect
from crew_tools.schemas import load_schema

if TYPE_CHECKING:
    from crew_tools.team import CrewSource

__all__ = ["tools"]


def tools(crew: "CrewSource") -> tuple[ToolSpec, ...]:
    """What this module offers to a host's model."""

    async def start(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        from crew_tools.subagent.start import start_agent

        try:
            return await start_agent(await crew(), arguments, context)
        except CrewError as error:
            raise ToolError(str(error)) from error

    async def result(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        from crew_tools.subagent.result import agent_result

        try:
            return await agent_result(await crew(), arguments, context)
        except CrewError as error:
            raise ToolError(str(error)) from error

    of_start, of_result = load_schema("crew_agent"), load_schema("crew_agent_result")
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
    )
