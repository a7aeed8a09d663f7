"""One project in one process: what tools, commands and host adapters are given to work with."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crew_plugin.config.settings import Settings
    from crew_plugin.detached.start import Detached
    from crew_plugin.engine.supervisor import Supervisor
    from crew_plugin.host import Engine
    from crew_plugin.plugins import LoadedHooks
    from crew_plugin.project import Project
    from crew_plugin.resources import Catalog
    from crew_plugin.store.writer import StoreWriter

__all__ = ["Crew"]


@dataclass(slots=True)
class _Read:
    """The resources as they were read last."""

    catalog: "Catalog | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """A project, its settings and store, and what executes its runs."""

    project: "Project"
    settings: "Settings"
    writer: "StoreWriter"
    supervisor: "Supervisor"
    engine: "Engine"
    hooks: "LoadedHooks | None" = None
    """Whoever takes part in its runs."""
    detaches: bool = False
    """Whether runs in the background get a supervisor in a process of their own."""
    _read: _Read = field(default_factory=_Read, init=False, repr=False, compare=False)

    async def detach(self, run_id: str) -> "Detached":
        """Give a submitted run a supervisor of its own, and return when that has claimed it. Raises
        `HostUnsupported` if it does not; the run is still to be driven then."""
        import anyio.to_thread

        from crew_plugin.detached.start import start_detached

        detached = await anyio.to_thread.run_sync(start_detached, self.project, run_id)
        self.supervisor.hand_off(run_id)
        return detached

    async def catalog(self) -> "Catalog":
        """The project's resources as they are now. Only files that changed are read again."""
        import anyio.to_thread

        from crew_plugin.resources import discover

        self._read.catalog = await anyio.to_thread.run_sync(
            lambda: discover(self.project.root, self.settings, previous=self._read.catalog)
        )
        return self._read.catalog
