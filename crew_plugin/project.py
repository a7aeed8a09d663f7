"""Where a project is, and where its state lies."""

import os
from dataclasses import dataclass
from pathlib import Path

from crew_plugin.errors import InvalidValue, StateUnwritable

__all__ = ["Project", "ensure_state", "find_project"]

CREW_DIR = ".crew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project: canonical paths. Nothing of it needs to exist yet but its root."""

    root: Path
    state_dir: Path

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.state_dir / "crew.db"

    @property
    def artifacts(self) -> Path:
        """The folder of stored bodies."""
        return self.state_dir / "artifacts"

    @property
    def logs(self) -> Path:
        """The folder of logs."""
        return self.state_dir / "logs"

    def log_of(self, run_id: str) -> Path:
        """Where the detached supervisor of a run writes what it has to say."""
        return self.logs / f"{run_id}.log"


def find_project(
    start: str | os.PathLike[str] | None = None,
    *,
    explicit: str | os.PathLike[str] | None = None,
    standing: str | os.PathLike[str] | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> Project:
    """The project of a folder: `explicit`, else the nearest folder upwards with `.crew/`, else the
    git top level, else `standing` if it lies in that, else the folder itself. A linked git worktree
    belongs to its main checkout.

    Raises `InvalidValue` if `explicit` is not a folder.
    """
    if explicit is not None:
        root = Path(explicit).expanduser().resolve()
        if not root.is_dir():
            raise InvalidValue("project", str(explicit), "an existing folder")
    else:
        here = Path.cwd() if start is None else Path(start).expanduser()
        root = _nearest(here.resolve(), here if standing is None else Path(standing))
    root = _main_checkout(root)
    state = root / CREW_DIR / "state" if state_dir is None else Path(state_dir).expanduser().resolve()
    return Project(root=root, state_dir=state)


def ensure_state(project: Project) -> Path:
    """Make the state folder, which keeps itself out of git. Raises `StateUnwritable`."""
    folder = project.state_dir
    refuse_links(project)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except OSError as error:
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is in its place" if in_the_way else error.strerror or str(error)
        raise StateUnwritable(folder, reason) from error
    return folder


def refuse_links(project: Project) -> None:
    """Raise `StateUnwritable` where the project's own `.crew/`, its state folder or the database in it is
    a link: a repository that somebody cloned must not decide where runs are written to. `--state-dir` names
    any other place, links included, since it is the person who says so."""
    for place in (project.root / CREW_DIR, project.state_dir, project.database):
        inside = place.is_relative_to(project.root)
        if inside and place.is_symlink():
            raise StateUnwritable(place, "it is a link; say with --state-dir where runs are to be kept")


def _nearest(here: Path, standing: Path) -> Path:
    for folder in (here, *here.parents):
        if (folder / CREW_DIR).is_dir():
            return folder
    around = standing.resolve()
    return _git_top(here) or (around if here.is_relative_to(around) else here)


def _git_top(here: Path) -> Path | None:
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)


def _main_checkout(root: Path) -> Path:
    """The same place in the main checkout if `root` lies in a linked worktree, else `root`."""
    top = _git_top(root)
    if top is None or not (top / ".git").is_file():
        return root
    main = _main_of_worktree(top)
    if main is None:
        return root
    same_place = main / root.relative_to(top)
    return same_place if same_place.is_dir() else main


def _main_of_worktree(top: Path) -> Path | None:
    """A linked worktree has a `.git` file that leads to a folder with a `commondir` file; a
    submodule's has none, and a bare repository has no checkout beside it."""
    try:
        kind, _, target = (top / ".git").read_text(encoding="utf-8").strip().partition(": ")
        if kind != "gitdir":
            return None
        private = top / target
        common = (private / (private / "commondir").read_text(encoding="utf-8").strip()).resolve()
    except OSError:
        return None
    return common.parent if common.name == ".git" and common.parent.is_dir() else None
