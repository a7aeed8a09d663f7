"""Which project a command is about, and its store, opened for reading."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crew_plugin.errors import UnknownName
from crew_plugin.project import Project, ensure_state, find_project
from crew_plugin.store.port import RunStore

__all__ = ["Place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the person said about where the project is."""

    project: str | None = None
    state_dir: str | None = None

    def find(self, start: str | None = None) -> Project:
        """The project. Raises `InvalidValue`."""
        return find_project(start, explicit=self.project, state_dir=self.state_dir)

    def logs(self) -> Path:
        """The folder for logs, made if need be. Raises `StateUnwritable`."""
        folder = ensure_state(self.find()) / "logs"
        folder.mkdir(exist_ok=True)
        return folder

    def options(self) -> str:
        """What to add to a printed command so that it means the same project."""
        text = "" if self.project is None else f" --project {shlex.quote(str(self.find().root))}"
        if self.state_dir is not None:
            text += f" --state-dir {shlex.quote(str(self.find().state_dir))}"
        return text

    @contextmanager
    def reading(self) -> Iterator[RunStore | None]:
        """The store; None where nothing was ever run. Reading makes no files."""
        from crew_plugin.store.sqlite import SqliteStore

        project = self.find()
        if not project.database.exists():
            yield None
            return
        store = SqliteStore.open(project, readonly=True)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def reading_run(self, run: str) -> Iterator[RunStore]:
        """The store, for a command that is about one run. Raises `UnknownName` without a store."""
        with self.reading() as store:
            if store is None:
                raise UnknownName("run", run, ())
            yield store
