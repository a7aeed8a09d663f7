"""Offering the crew's tools to the model of a host."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from crew_tools.schemas import load_schema

if TYPE_CHECKING:
    from crew_plugin.host import Host, ToolSpec
    from crew_tools.team import CrewSource

__all__ = ["offer_tools"]

_NAMES: Final = ("crew_agent", "crew_agent_result", "crew_agent_steer", "team")


def offer_tools(host: "Host", crew: "CrewSource") -> "Callable[[str], ToolSpec]":
    """Offer them by their generated schemas. Returns what gives a tool by its name: the tools are
    made when the first of them is needed, and what they import is imported then."""
    made: dict[str, ToolSpec] = {}

    def tool(name: str) -> "ToolSpec":
        if not made:
            from crew_tools import crew_agent, team

            made.update({spec.name: spec for spec in (*crew_agent.tools(crew), *team.tools(crew))})
        return made[name]

    for name in _NAMES:
        host.offer(load_schema(name), partial(tool, name))
    return tool
