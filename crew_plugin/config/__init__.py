"""Settings: one model, its layers, its documentation, and a project that is set up for it."""

from crew_plugin.config.layers import load_settings
from crew_plugin.config.settings import AgentOverride, Settings

__all__ = ["AgentOverride", "Settings", "load_settings"]
