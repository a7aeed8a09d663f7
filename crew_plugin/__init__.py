"""A crew for a host coding agent: durable teams of agents that hand in checked results."""

from crew_plugin.bundle import bundle_root

__all__ = ["bundle_root"]
