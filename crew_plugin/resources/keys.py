"""The keys of a resource: which there are, how they may be spelled, what their values may be.

snake_case is what we write; camelCase and kebab-case are read as the same key.
"""

import csv
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Literal

from crew_plugin.resources.files import read_text
from crew_plugin.resources.models import LimitsPart, Problem, ResultSchema, Skills, Source
from crew_plugin.resources.yamltext import BadText, Json, Mapped, load_mapping

__all__ = [
    "NAME",
    "ON_FAILURE",
    "RESOURCE_NAME",
    "SCHEMA_FORMS",
    "SCHEMA_MODES",
    "Keys",
    "Notes",
    "Place",
    "Section",
    "is_name",
    "split_front",
    "tidy",
]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_TOOL: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_.*-]{0,127}")
_OUTPUT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
RESOURCE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,79}")
_NAMED_AS: Final = {
    RESOURCE_NAME: "letters, digits, and any of . : / - _, at most 80",
    NAME: "letters, digits, '-' and '_', at most 80",
    _TOOL: "a tool's name, such as read or mcp__server__tool",
    _OUTPUT: "letters, digits, '.', '-' and '_', at most 80",
}


def is_name(text: str) -> bool:
    """Whether a resource may be called this."""
    return NAME.fullmatch(text) is not None


def tidy(text: str) -> str:
    """`text` with one kind of line ending and no blank edges."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a text came from."""

    path: Path
    root: Path
    """Nothing outside this folder is read."""
    source: Source
    trusted: bool


@dataclass(slots=True, kw_only=True)
class Notes:
    """What reading one file found out beside its content."""

    place: Place
    notices: list[Problem] = field(default_factory=list[Problem])
    files: list[Path] = field(default_factory=list[Path])
    """Other files that belong to it."""

    def say(self, line: int, message: str) -> None:
        """Note something that does not stop the file from being used."""
        self.notices.append(Problem(path=self.place.path, line=line, message=message))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys that one kind of section may have."""

    used: frozenset[str]
    waiting: frozenset[str]
    """Accepted and kept, but nothing acts on them yet: said so in a notice."""
    plain: frozenset[str] = frozenset()
    """Kept without a word: information for people."""
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])

    def canonical(self, written: str) -> str | None:
        """The key that `written` spells, if it is one."""
        snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", written).replace("-", "_").lower()
        snake = self.aliases.get(snake, snake)
        return snake if snake in self.used | self.waiting | self.plain else None


def split_front(text: str) -> tuple[Mapped, str, int]:
    """The frontmatter, the body, and the line on which the body begins.

    Raises:
        BadText: if there is no frontmatter or it cannot be read.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[0].rstrip(" \t") != "---":
        raise BadText("must begin with a line '---', then 'key: value' lines, then '---'", 1)
    end = next((at for at, line in enumerate(lines) if at and line.rstrip(" \t") == "---"), 0)
    if not end:
        raise BadText("the frontmatter that begins here is never closed with '---'", 1)
    return load_mapping("\n".join(lines[1:end]), 2), "\n".join(lines[end + 1 :]), end + 2


class Section:
    """The keys and values of one frontmatter or step, checked as they are asked for."""

    def __init__(self, mapped: Mapped, keys: Keys, notes: Notes, first_line: int) -> None:
        self._values: dict[str, Json] = {}
        self._lines: dict[str, int] = {}
        self._notes = notes
        self._first_line = first_line
        self.extras: dict[str, Json] = {}
        for written, value in mapped.values.items():
            self._sort(written, value, mapped.lines[written], keys)

    def _sort(self, written: str, value: Json, line: int, keys: Keys) -> None:
        key = keys.canonical(written)
        name = key or written
        if name in self._lines:
            raise BadText(f"{name!r} is given twice (again as {written!r})", line)
        self._lines[name] = line
        if key in keys.used:
            self._values[name] = value
            return
        self.extras[name] = value
        if key is None:
            near = difflib.get_close_matches(written.lower(), keys.used, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self._notes.say(line, f"unknown key {written!r}{hint} (kept, not used)")
        elif key in keys.waiting:
            self._notes.say(line, f"{key!r} is accepted, not used yet")

    def line(self, key: str) -> int:
        """Where the key stands, or where the section begins."""
        return self._lines.get(key, self._first_line)

    def has(self, key: str) -> bool:
        """Whether the key was given, with something as its value."""
        return self._values.get(key) is not None

    def _bad(self, key: str, wanted: str) -> BadText:
        shown = json.dumps(self._values[key], ensure_ascii=False)
        return BadText(
            f"{key!r} must be {wanted}, not {shown if len(shown) <= 60 else shown[:57] + '...'}",
            self.line(key),
        )

    def text(self, key: str) -> str:
        """A text; empty if it was not given."""
        value = self._values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._bad(key, "text (put it in quotes)")
        return value

    def maybe(self, key: str) -> str | None:
        """A text, or None if it is not given, `false` or empty."""
        return None if self._values.get(key) is False else self.text(key) or None

    def name(self, key: str) -> str | None:
        """The name of a resource, role or step."""
        value = self.maybe(key)
        if value is not None and not is_name(value):
            raise self._bad(key, f"a name ({_NAMED_AS[NAME]})")
        return value

    def output(self, key: str) -> str | None:
        """The name of a shared output."""
        value = self.maybe(key)
        if value is not None and not _OUTPUT.fullmatch(value):
            raise self._bad(key, f"a name ({_NAMED_AS[_OUTPUT]})")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """true or false."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._bad(key, "true or false")
        return value

    def choice[T: str](self, key: str, allowed: tuple[T, ...]) -> T | None:
        """One of a few words."""
        value = self._values.get(key)
        if value is None:
            return None
        for word in allowed:
            if word == value:
                return word
        raise self._bad(key, "one of " + ", ".join(allowed))

    def whole(self, key: str, low: int, high: int) -> int | None:
        """A whole number."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(key, f"a whole number from {low} to {high}")
        return value

    def seconds(self, key: str) -> float | None:
        """A positive number of seconds."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise self._bad(key, "a number of seconds above 0")
        return value

    def skills(self, key: str) -> Skills:
        """Names of skills; False for none; None if not given or empty."""
        return False if self._values.get(key) is False else self._names(key, NAME) or None

    def names(self, key: str) -> tuple[str, ...]:
        """Names of steps or skills; none if it is `false` or not given."""
        return () if self._values.get(key) is False else self._names(key, NAME) or ()

    def outputs(self, key: str) -> tuple[str, ...]:
        """Names of shared outputs."""
        return () if self._values.get(key) is False else self._names(key, _OUTPUT) or ()

    def resources(self, key: str) -> tuple[str, ...]:
        """Names of what a session needs for itself."""
        return () if self._values.get(key) is False else self._names(key, RESOURCE_NAME) or ()

    def tools(self, key: str) -> tuple[str, ...]:
        """Names of tools; `*` in one is any text."""
        return () if self._values.get(key) is False else self._names(key, _TOOL) or ()

    def mapping(self, key: str) -> Mapping[str, Json]:
        """Lines of `key: value`; none if it was not given."""
        value = self._values.get(key)
        if value is None or value is False:
            return {}
        if not isinstance(value, dict):
            raise self._bad(key, "lines of 'name: ...'")
        return value

    def _names(self, key: str, pattern: re.Pattern[str]) -> tuple[str, ...] | None:
        value = self._values.get(key)
        if value is None:
            return None
        parts = _comma_list(value) if isinstance(value, str) else value
        if not isinstance(parts, list):
            raise self._bad(key, "a list, or names with commas between them")
        found: dict[str, None] = {}
        for part in parts:
            name = part.strip() if isinstance(part, str) else part
            if name == "":
                continue
            if not isinstance(name, str) or not pattern.fullmatch(name):
                raise BadText(f"{key!r}: {name!r} is not a name ({_NAMED_AS[pattern]})", self.line(key))
            found[name] = None
        return tuple(found)

    def limits(self, key: str) -> LimitsPart:
        """The limits of a session."""
        value = self._values.get(key)
        if value is None:
            return LimitsPart()
        if not isinstance(value, dict):
            raise self._bad(key, "lines of " + ", ".join(sorted(_LIMITS.used)))
        line = self.line(key)
        part = Section(Mapped(values=value, lines=dict.fromkeys(value, line)), _LIMITS, self._notes, line)
        if part.extras:
            raise BadText(
                f"{key!r} has no {next(iter(part.extras))!r}; it has " + ", ".join(sorted(_LIMITS.used)), line
            )
        return LimitsPart(
            steps=part.whole("steps", 1, 10_000),
            requests=part.whole("requests", 1, 100_000),
            stuck_steps=part.whole("stuck_steps", 4, 1000),
            idle_seconds=part.seconds("idle_seconds"),
            tool_seconds=part.seconds("tool_seconds"),
            turn_seconds=part.seconds("turn_seconds"),
            wall_seconds=part.seconds("wall_seconds"),
            model_retries=part.whole("model_retries", 0, 20),
            attempts=part.whole("attempts", 1, 10),
        )

    def schema(self, key: str) -> ResultSchema | None:
        """A schema, written here or in a file beside this one."""
        value = self._values.get(key)
        if value is None or value is False:
            return None
        file: str | None = None
        if isinstance(value, str):
            file, value = value, self._schema_file(key, value)
        if not isinstance(value, dict):
            raise self._bad(key, "a JSON Schema, or the name of a file with one")
        for ref in _references(value):
            if not ref.startswith("#"):
                raise BadText(
                    f"{key!r}: '$ref' may only point into the schema itself ('#...'), not to {ref[:60]!r}",
                    self.line(key),
                )
        return ResultSchema(body=value, file=file)

    def _schema_file(self, key: str, name: str) -> dict[str, Json]:
        place = self._notes.place
        path = place.path.parent / name
        self._notes.files.append(path)
        try:
            # JSON is YAML, so one reader does for both.
            return load_mapping(read_text(path, place.root), 1).values
        except BadText as error:
            raise BadText(f"{key!r}: {name}: {error.message}", self.line(key)) from None


_LIMITS: Final = Keys(used=frozenset(one.name for one in fields(LimitsPart)), waiting=frozenset())
SCHEMA_FORMS: Final[tuple[Literal["auto"], Literal["json-schema"], Literal["jtd"]]] = (
    "auto",
    "json-schema",
    "jtd",
)
ON_FAILURE: Final[tuple[Literal["keep-going"], Literal["fail-fast"]]] = ("keep-going", "fail-fast")
SCHEMA_MODES: Final[tuple[Literal["permissive"], Literal["strict"]]] = ("permissive", "strict")


def _comma_list(text: str) -> list[Json] | None:
    """What stands between the commas, quoted or not; None if that cannot be told."""
    try:
        return [*next(csv.reader([text], skipinitialspace=True), list[str]())]
    except csv.Error:
        return None


def _references(schema: Json) -> list[str]:
    """Every text that stands as a reference anywhere in a schema."""
    found: list[str] = []
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            found += [
                value
                for key, value in item.items()
                if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str)
            ]
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return found
