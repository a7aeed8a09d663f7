"""Long bodies: files named by the SHA-256 of what is in them."""

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from crew_plugin.errors import CrewError, StateUnwritable

__all__ = ["Bodies"]

_BODY = re.compile("[0-9a-f]{64}")


class Bodies:
    """A folder of bodies. What `put` has returned for survives a crash and a power loss. Nothing is
    read, written or deleted through a link: it could lead anywhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, sha256: str, body: bytes) -> None:
        """Store a body under its hash. One that is there already is not written again."""
        path = self._path(sha256)
        try:
            self._refuse_links(path)
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                _sync_folder(path.parent.parent)
            if not _holds(path, len(body)):
                _write(path, body)
            _sync_folder(path.parent)
        except OSError as error:
            raise StateUnwritable(self._folder, error.strerror or str(error)) from error

    def read(self, sha256: str) -> bytes:
        """The body with this whole hash. Raises `CrewError` if it is gone."""
        path = self._path(sha256)
        try:
            self._refuse_links(path)
            return path.read_bytes()
        except OSError as error:
            raise CrewError(f"the body of artifact {sha256[:12]} cannot be read: {error}") from error

    def remove(self, sha256: str) -> int | None:
        """Delete a body; returns its bytes, None where there is none."""
        path = self._path(sha256)
        try:
            self._refuse_links(path)
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateUnwritable(self._folder, error.strerror or str(error)) from error
        return size

    def all(self) -> list[str]:
        """The hashes of all bodies."""
        return [
            path.name
            for path in self._folder.glob("??/*")
            if _BODY.fullmatch(path.name) and not path.is_symlink() and not path.parent.is_symlink()
        ]

    def sizes(self) -> dict[str, int]:
        """Bytes by name of all bodies, and of what is half written."""
        sizes: dict[str, int] = {}
        for path in [*self._folder.glob("??/*"), *self._folder.glob("??/.*")]:
            with suppress(OSError):
                sizes[path.name] = path.stat().st_size
        return sizes

    def remove_unfinished(self) -> tuple[int, int]:
        """Delete what writers that died left half written. Nobody may be writing. Returns how many
        there were and their bytes."""
        count = size = 0
        for path in self._folder.glob("??/.*"):
            with suppress(OSError):
                weight = path.stat().st_size
                path.unlink()
                count, size = count + 1, size + weight
        return count, size

    def beginning(self, prefix: str) -> list[str]:
        """The hashes of the bodies whose hash begins like this, with two digits or more."""
        try:
            names = os.listdir(self._path(prefix).parent)
        except FileNotFoundError:
            return []
        return [name for name in names if name.startswith(prefix)]

    def _refuse_links(self, path: Path) -> None:
        """Raise `OSError` where the folder of bodies, a folder in it or a body is not what it seems."""
        for place, kind in ((self._folder, stat.S_ISDIR), (path.parent, stat.S_ISDIR), (path, stat.S_ISREG)):
            try:
                mode = place.lstat().st_mode
            except FileNotFoundError:
                return
            if not kind(mode):
                what = "a link" if stat.S_ISLNK(mode) else "something else than a body"
                raise OSError(errno.ELOOP, f"{place} is {what}; the crew follows none there")

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


def _holds(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _write(path: Path, body: bytes) -> None:
    temporary = path.parent / f".{path.name[:16]}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with temporary.open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where a folder can be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
