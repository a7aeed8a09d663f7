"""Going through a folder: in order, bounded, without what nobody wants to see."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from crew_tools.files.room import Room

__all__ = ["SKIPPED_FOLDERS", "Stopped", "Walk"]

SKIPPED_FOLDERS = frozenset({
    ".git", ".hg", ".svn", ".jj", "node_modules", ".venv", "venv", "__pycache__", ".mypy_cache",
    ".ruff_cache", ".pytest_cache", ".hypothesis", ".tox", ".nox", ".gradle", ".cache", ".crew",
})  # fmt: skip
"""Never entered unless the model asks for ignored files or names the folder itself."""

_CHECK_EVERY = 256


class Stopped(Exception):
    """The call was cancelled while its thread was at work."""


@dataclass(slots=True)
class Walk:
    """One walk through a folder of a room. Its counters tell what was left out, and why."""

    room: Room
    stop: threading.Event
    include_ignored: bool = False
    max_entries: int = 200_000
    seconds: float = 20.0
    entries: int = 0
    """Entries looked at."""
    ignored: int = 0
    """Entries left out by an ignore rule (a folder counts once)."""
    unreadable: list[str] = field(default_factory=list[str])
    """Folders that could not be listed."""
    cut: str | None = None
    """Why the walk ended early, or None."""
    _deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.seconds

    @property
    def seconds_left(self) -> float:
        """What remains of the time for the whole call, never below a small positive number."""
        return max(0.01, self._deadline - time.monotonic())

    def check(self) -> bool:
        """False when the time is up. Raises `Stopped` when the call was cancelled."""
        if self.stop.is_set():
            raise Stopped
        if time.monotonic() > self._deadline:
            self.cut = f"stopped after {self.seconds:.0f} s"
            return False
        return True

    def notes(self, *, about_ignored: bool) -> Iterator[str]:
        """What the model should know about what it does not see."""
        if self.cut:
            yield f"({self.cut}; look into a smaller folder)"
        if self.unreadable:
            more = f" and {len(self.unreadable) - 5:,} more" if len(self.unreadable) > 5 else ""
            yield f"(could not be listed: {', '.join(self.unreadable[:5])}{more})"
        if about_ignored and self.ignored:
            yield f"({self.ignored:,} ignored entries left out; use include_ignored=true to look there)"

    def all(self, start: Path) -> Iterator[tuple[str, bool]]:
        """Every entry below `start`, by its path from there, and whether it is a folder. Files come
        before folders, names in order; symlinked folders are not entered."""
        pending: list[tuple[Path, str, tuple[_Rules, ...]]] = [(start, "", self._rules_above(start))]
        while pending:
            folder, prefix, rules = pending.pop()
            rules = self._with_own_rules(folder, rules)
            deeper: list[tuple[Path, str, tuple[_Rules, ...]]] = []
            for entry, is_folder in self._listing(folder):
                self.entries += 1
                if self.entries > self.max_entries:
                    self.cut = f"stopped after {self.max_entries:,} entries"
                    return
                if self.entries % _CHECK_EVERY == 0 and not self.check():
                    return
                if self._is_ignored(entry, is_folder, rules):
                    self.ignored += 1
                    continue
                yield prefix + entry.name, is_folder
                if is_folder:
                    deeper.append((folder / entry.name, f"{prefix}{entry.name}/", rules))
            pending.extend(reversed(deeper))

    def _listing(self, folder: Path) -> list[tuple["os.DirEntry[str]", bool]]:
        try:
            with os.scandir(folder) as scan:
                found: list[tuple[os.DirEntry[str], bool]] = []
                for entry in scan:
                    if len(found) % _CHECK_EVERY == 0 and self.stop.is_set():
                        raise Stopped
                    if len(found) > self.max_entries:
                        break
                    found.append((entry, entry.is_dir(follow_symlinks=False)))
        except OSError:
            self.unreadable.append(self.room.shown(folder))
            return []
        # Files before folders, so that what lies near comes first.
        found.sort(key=lambda pair: (pair[1], pair[0].name))
        return found

    def _is_ignored(self, entry: "os.DirEntry[str]", is_folder: bool, rules: "Sequence[_Rules]") -> bool:
        if self.include_ignored:
            return False
        if is_folder and entry.name in SKIPPED_FOLDERS:
            return True
        for rule in reversed(rules):
            verdict = rule.verdict(entry.path, is_folder)
            if verdict is not None:
                return verdict
        return False

    def _rules_above(self, start: Path) -> "tuple[_Rules, ...]":
        rules: tuple[_Rules, ...] = ()
        if start != self.room.root:
            for folder in reversed(start.relative_to(self.room.root).parents):
                rules = self._with_own_rules(self.room.root / folder, rules)
        return rules

    def _with_own_rules(self, folder: Path, rules: "tuple[_Rules, ...]") -> "tuple[_Rules, ...]":
        if self.include_ignored:
            return ()
        found = _Rules.of(folder)
        return (*rules, found) if found is not None else rules


@dataclass(frozen=True, slots=True)
class _Rules:
    """One .gitignore."""

    folder: str
    spec: GitIgnoreSpec

    @staticmethod
    def of(folder: Path) -> "_Rules | None":
        source = folder / ".gitignore"
        try:
            if not source.is_file() or source.stat().st_size > 1_000_000:
                return None
            lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
            return _Rules(str(folder), GitIgnoreSpec.from_lines(lines))
        except (OSError, ValueError):
            return None  # an unreadable or malformed ignore file hides nothing

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        relative = os.path.relpath(path, self.folder).replace(os.sep, "/")
        return self.spec.check_file(relative + "/" if is_folder else relative).include
