"""Settings: one model, its layers, its documentation, and a project that is set up for it."""

from crew_plugin.config.init import InitReport, InitState, init_project
from crew_plugin.config.layers import load_settings
from crew_plugin.config.settings import AgentOverride, Settings

__all__ = ["AgentOverride", "InitReport", "InitState", "Settings", "init_project", "load_settings"]
