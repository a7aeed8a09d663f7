"""Setting a project up for the crew."""

import os
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from crew_plugin.config.document import commented_config
from crew_plugin.errors import ConfigError
from crew_plugin.project import CREW_DIR
from crew_plugin.resources.models import Kind
from crew_plugin.resources.places import CONFIG_FILE

__all__ = ["InitItem", "InitReport", "InitState", "init_project"]

_IGNORED = "# What runs leave behind is of this machine.\nstate/\n"


class InitState(StrEnum):
    """What became of a file or folder."""

    CREATED = "created"
    """It was not there and is now."""
    REPLACED = "replaced"
    """It was there and was written anew, as asked."""
    KEPT = "kept"
    """It was there and was left as it is."""
    WOULD_CREATE = "would create"
    """It is not there, and this was a dry run."""
    WOULD_REPLACE = "would replace"
    """It is there, and this was a dry run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitItem:
    """One file or folder."""

    path: Path
    state: InitState


@dataclass(frozen=True, slots=True, kw_only=True)
class InitReport:
    """What was done, in order."""

    root: Path
    items: tuple[InitItem, ...]


def init_project(root: Path, *, dry_run: bool = False, overwrite: bool = False) -> InitReport:
    """Make the project's `.crew/`: a commented `config.toml`, folders for resources, `.gitignore`.

    What is there is kept; `overwrite` replaces the files of these that are.

    Raises:
        ConfigError: if something cannot be written.
    """
    folder = root / CREW_DIR
    items: list[InitItem] = []
    try:
        items += [
            InitItem(path=path, state=_folder(path, dry_run=dry_run))
            for path in (folder, *(folder / kind.folder for kind in Kind))
        ]
        items += [
            InitItem(path=path, state=_file(path, text, dry_run=dry_run, overwrite=overwrite))
            for path, text in (
                (folder / CONFIG_FILE, commented_config()),
                (folder / ".gitignore", _IGNORED),
            )
        ]
    except OSError as error:
        raise ConfigError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return InitReport(root=root, items=tuple(items))


def _folder(path: Path, *, dry_run: bool) -> InitState:
    if path.is_dir():
        return InitState.KEPT
    if os.path.lexists(path):
        raise ConfigError(f"{path} must be a folder, but something else is there; move it away")
    if dry_run:
        return InitState.WOULD_CREATE
    path.mkdir()
    return InitState.CREATED


def _file(path: Path, text: str, *, dry_run: bool, overwrite: bool) -> InitState:
    there = os.path.lexists(path)
    if there and not overwrite:
        return InitState.KEPT
    if dry_run:
        return InitState.WOULD_REPLACE if there else InitState.WOULD_CREATE
    _write_whole(path, text)
    return InitState.REPLACED if there else InitState.CREATED


def _write_whole(path: Path, text: str) -> None:
    """Write the file so that nobody ever sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
