"""Which project a command is about, and its store, opened for reading."""

import os
import shlex
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crew_plugin.errors import StateUnwritable, UnknownName
from crew_plugin.project import Project, ensure_state, find_project
from crew_plugin.store.port import RunStore

__all__ = ["Place", "program", "terminal_width"]


def program() -> str:
    """How this program is typed in the person's shell: `crew`, `bub crew`, or the path of a script
    that is not on PATH."""
    script = Path(sys.argv[0])
    found = shutil.which(script.name)
    if found is not None and script.exists() and os.path.samefile(found, script):
        return "crew" if script.name == "crew" else f"{script.name} crew"
    if script.name not in ("crew", "bub") or not script.exists():
        return "crew"
    here = Path.cwd()
    path = script.absolute()
    typed = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
    return shlex.quote(typed) + ("" if script.name == "crew" else " crew")


def terminal_width() -> int | None:
    """How wide the terminal is that standard output goes to; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the person said about where the project is."""

    project: str | None = None
    state_dir: str | None = None
    start: str | None = None
    """The folder to look upwards from; None for the current one."""

    def find(self) -> Project:
        """The project. Raises `InvalidValue`."""
        # A part of the folder where the person stands is no project of its own.
        return find_project(self.start, explicit=self.project, standing=Path.cwd(), state_dir=self.state_dir)

    def logs(self) -> Path:
        """The folder for logs, made if need be. Raises `StateUnwritable`."""
        project = self.find()
        ensure_state(project)
        folder = project.logs
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StateUnwritable(folder, error.strerror or str(error)) from error
        return folder

    def options(self) -> str:
        """What to add to a printed command so that it means this project, from this folder."""
        here = self.find()
        text = "" if find_project().root == here.root else f" --project {shlex.quote(str(here.root))}"
        if self.state_dir is not None:
            text += f" --state-dir {shlex.quote(str(here.state_dir))}"
        return text

    @contextmanager
    def reading(self) -> Generator[RunStore]:
        """The store at one unchanging moment. Makes no files; what does not exist reads as empty."""
        from crew_plugin.store.sqlite import SqliteStore

        store = SqliteStore.open(self.find(), read_only=True)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def reading_run(self, run: str) -> Generator[tuple[RunStore, str]]:
        """The store and the id of one run in it. Raises `UnknownName`."""
        with self.reading() as store:
            if run == "last" and not store.list_runs(limit=1):
                raise UnknownName("run", "last", ())
            yield store, store.load_run(run).id
