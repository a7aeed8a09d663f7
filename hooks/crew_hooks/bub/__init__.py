"""The crew inside Bub: `plugin` is Bub's entry point, `host_crew` a Bub with a crew of its own.

Importing this is cheap: Bub imports it in every process, whether the crew is used or not.
"""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bub.framework import BubFramework

    from crew_hooks.bub.binding import CrewPlugin, Inactive
    from crew_plugin.config import Settings
    from crew_plugin.crew import Crew
    from crew_plugin.project import Project

__all__ = ["host_crew", "plugin"]


def plugin(framework: "BubFramework") -> "CrewPlugin | Inactive":
    """Bub's entry point: the crew's hooks and tools for this framework."""
    from crew_hooks.bub.binding import load

    return load(framework)


def host_crew(project: "Project", settings: "Settings") -> "AbstractAsyncContextManager[Crew]":
    """A crew with a Bub of its own in this process, for as long as the block lasts."""
    from crew_hooks.bub import host

    return host.host_crew(project, settings)
