"""Agents, teams, workflows and skills: read, found, checked."""

from crew_plugin.resources.catalog import Catalog, Hidden
from crew_plugin.resources.discovery import discover, is_trusted
from crew_plugin.resources.models import (
    AgentFile,
    Kind,
    LimitsPart,
    Problem,
    Resource,
    Role,
    SkillFile,
    Source,
    Step,
    TeamFile,
    WorkflowFile,
)
from crew_plugin.resources.render import render

__all__ = [
    "AgentFile",
    "Catalog",
    "Hidden",
    "Kind",
    "LimitsPart",
    "Problem",
    "Resource",
    "Role",
    "SkillFile",
    "Source",
    "Step",
    "TeamFile",
    "WorkflowFile",
    "discover",
    "is_trusted",
    "render",
]
