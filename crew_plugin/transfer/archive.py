"""Opening a bundle that comes from anywhere: what is too large, not what it says, or no bundle at all is
refused before anything of it is believed. Nothing is ever unpacked into files of its own names."""

import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from pydantic import ValidationError

from crew_plugin.errors import BadBundle
from crew_plugin.transfer.format import LINE, Head, Line
from crew_plugin.transfer.parts import BODIES, HEAD, MOST_ENTRIES, ROWS

__all__ = ["Archive", "open_archive"]

_HEAD_BYTES: Final = 16_000_000
_LINE_BYTES: Final = 32_000_000
_DIRECTORY_BYTES: Final = 16_000_000
"""Of the list of what is in a zip file: reading it takes many times as much memory."""
_END: Final = b"PK\x05\x06"
_END_BYTES: Final = 22
_END_OF_LARGE: Final = b"PK\x06\x07"
_END_OF_LARGE_BYTES: Final = 20
_PIECE: Final = 1 << 20
_BODY: Final = re.compile(re.escape(BODIES) + "[0-9a-f]{64}")


class Archive:
    """An open bundle whose head was checked."""

    def __init__(self, file: zipfile.ZipFile, name: str, head: Head) -> None:
        self.head = head
        self.name = name
        self._file = file

    def rows(self) -> list[Line]:
        """Its rows, each checked. Raises `BadBundle`."""
        part = self.head.rows
        whole = self._read(ROWS, part.size)
        if hashlib.sha256(whole).hexdigest() != part.sha256:
            raise BadBundle(self.name, f"{ROWS} is not what {HEAD} says: its hash differs")
        lines = whole.removesuffix(b"\n").split(b"\n") if whole else []
        if len(lines) != part.count:
            raise BadBundle(self.name, f"{ROWS} has {len(lines):,} rows, {HEAD} says {part.count:,}")
        return [self._row(number, line) for number, line in enumerate(lines, start=1)]

    def body(self, sha256: str) -> bytes:
        """One of its bodies, checked against its hash. Raises `BadBundle`."""
        body = self._read(BODIES + sha256, self.head.bodies[sha256])
        if hashlib.sha256(body).hexdigest() != sha256:
            raise BadBundle(self.name, f"the body {sha256[:16]} is not what its name says: its hash differs")
        return body

    def _row(self, number: int, line: bytes) -> Line:
        if len(line) > _LINE_BYTES:
            raise BadBundle(self.name, f"row {number} is larger than {_LINE_BYTES:,} bytes")
        try:
            return LINE.validate_json(line)
        except ValidationError as error:
            raise BadBundle(self.name, f"row {number}: {_first_of(error)}") from None

    def _read(self, entry: str, size: int) -> bytes:
        try:
            with self._file.open(entry) as stream:
                body = _bounded(stream, size)
        except (KeyError, RuntimeError, NotImplementedError, OSError, EOFError) as error:
            raise BadBundle(self.name, f"{entry} cannot be read: {error}") from None
        except (zipfile.BadZipFile, zlib.error) as error:
            raise BadBundle(self.name, f"{entry} is damaged: {error}") from None
        if len(body) != size:
            raise BadBundle(self.name, f"{entry} has not the {size:,} bytes that {HEAD} says")
        return body


@contextmanager
def open_archive(path: Path, *, most_bytes: int) -> Generator[Archive]:
    """Open a bundle of which no more than `most_bytes` are read, packed or unpacked.

    Raises:
        BadBundle: it is none, it is damaged or too large, or it holds what no bundle holds.
    """
    name = path.name
    try:
        if not path.is_file():
            # A pipe would be waited for, for ever.
            raise BadBundle(name, "it is no file" if path.exists() else "there is no such file")
        with path.open("rb") as stream:
            _check_file(stream, name, most_bytes)
            with zipfile.ZipFile(stream) as file:
                _check_entries(file, name, most_bytes)
                archive = Archive(file, name, _head(file, name))
                _check_promises(archive, file)
                yield archive
    except OSError as error:
        raise BadBundle(name, error.strerror or str(error)) from error
    except zipfile.BadZipFile as error:
        raise BadBundle(name, f"it is no zip file, or it is damaged: {error}") from error


def _check_file(stream: IO[bytes], name: str, most_bytes: int) -> None:
    """Before anything parses it: that it is one file of bearable size, whose list of entries is, too."""
    size = stream.seek(0, 2)
    if size > most_bytes:
        raise BadBundle(name, f"it has {size:,} bytes; `bundles.max_bytes` allows {most_bytes:,}")
    stream.seek(max(0, size - _END_BYTES - _END_OF_LARGE_BYTES))
    tail = stream.read()
    end = tail[-_END_BYTES:]
    if not end.startswith(_END) or end[-2:] != b"\0\0":
        raise BadBundle(name, "it is no zip file, or it was cut off")
    if tail[:-_END_BYTES].startswith(_END_OF_LARGE):
        raise BadBundle(name, "it is a kind of zip file that no bundle is")
    if int.from_bytes(end[12:16], "little") > _DIRECTORY_BYTES:
        raise BadBundle(name, "its list of entries is too long")
    stream.seek(0)


def _check_entries(file: zipfile.ZipFile, name: str, most_bytes: int) -> None:
    entries = file.infolist()
    if len(entries) > MOST_ENTRIES + 2:
        raise BadBundle(name, f"it has {len(entries):,} entries; a bundle has {MOST_ENTRIES:,} at most")
    seen: set[str] = set()
    for entry in entries:
        shown = entry.filename[:100]
        if entry.filename not in (HEAD, ROWS) and not _BODY.fullmatch(entry.filename):
            raise BadBundle(name, f"it holds {shown!r}, which no bundle does")
        if entry.filename in seen:
            raise BadBundle(name, f"it holds {shown!r} twice")
        seen.add(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise BadBundle(name, f"{shown!r} is a link, or no file at all")
        if entry.flag_bits & 0x1:
            raise BadBundle(name, f"{shown!r} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadBundle(name, f"{shown!r} is packed in a way that no bundle is")
    total = sum(entry.file_size for entry in entries)
    if total > most_bytes:
        raise BadBundle(name, f"unpacked it has {total:,} bytes; `bundles.max_bytes` allows {most_bytes:,}")


def _head(file: zipfile.ZipFile, name: str) -> Head:
    try:
        with file.open(HEAD) as stream:
            text = _bounded(stream, _HEAD_BYTES)
    except (KeyError, RuntimeError, EOFError, zlib.error) as error:
        raise BadBundle(name, f"{HEAD} is missing or damaged: {error}") from None
    if len(text) > _HEAD_BYTES:
        raise BadBundle(name, f"{HEAD} is larger than {_HEAD_BYTES:,} bytes")
    try:
        return Head.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if problem["loc"] == ("version",) and isinstance(problem["input"], int) and problem["input"] > 1:
            told = f"it has version {problem['input']} of the format, and 1 is known; upgrade crew-plugin"
            raise BadBundle(name, told) from None
        raise BadBundle(name, f"{HEAD}: {_first_of(error)}") from None


def _check_promises(archive: Archive, file: zipfile.ZipFile) -> None:
    """That the head lists what is there, all of it and nothing else."""
    sizes = {entry.filename: entry.file_size for entry in file.infolist()}
    listed = {BODIES + sha256: size for sha256, size in archive.head.bodies.items()}
    listed[ROWS] = archive.head.rows.size
    there = {name: size for name, size in sizes.items() if name != HEAD}
    for entry in sorted(listed.keys() ^ there.keys()):
        told = "is listed and missing" if entry in listed else "is there and not listed"
        raise BadBundle(archive.name, f"{entry} {told}")
    for entry, size in listed.items():
        if there[entry] != size:
            raise BadBundle(archive.name, f"{entry} has {there[entry]:,} bytes, {HEAD} says {size:,}")


def _bounded(stream: IO[bytes], most: int) -> bytes:
    """What is in it, but no more than one byte above `most`, however much it unpacks to."""
    pieces: list[bytes] = []
    left = most + 1
    while left > 0 and (piece := stream.read(min(_PIECE, left))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _first_of(error: ValidationError) -> str:
    """The first thing that is wrong, without what was given: it may be megabytes long."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
