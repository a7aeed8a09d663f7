"""A result that is handed in by parts: which names they may have, and how they become one whole. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from crew_plugin.session.schema import Mismatch, SchemaChecker, canonical

__all__ = ["MERGED", "REPLACED", "Section", "Sections", "Whole", "joined", "meant_by"]

MERGED: Final = "merged"
"""Flags a result with items that its last call did not have, and the parts before it had."""
REPLACED: Final = "replaced"
"""Flags a result whose last call took the place of parts that said something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part."""

    label: str
    value: Any
    adds: bool
    """It goes on with a list; otherwise it takes the place of what had its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """What the parts and the last call may mean together."""

    data: Any
    flags: tuple[str, ...] = ()
    """Where the two say different things: what was made of that."""


def meant_by(text: str) -> Any:
    """What a JSON text means; None if it is none, or means null."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def joined(sections: "list[Section]", *, as_list: bool = False) -> Any:
    """The parts as one value; None if there are none."""
    if not sections:
        return None
    if as_list:
        return [item for section in sections for item in _items(section.value)]
    whole: dict[str, Any] = {}
    for section in sections:
        before = whole.get(section.label)
        if section.adds:
            kept = _items(before) if isinstance(before, list) else []
            whole[section.label] = [*kept, *_items(section.value)]
        else:
            whole[section.label] = section.value
    return whole


class Sections:
    """The parts that one session has handed in."""

    def __init__(self, checker: SchemaChecker | None) -> None:
        self._checker = checker
        self._kept: list[Section] = []

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the parts so far."""
        return tuple(dict.fromkeys(section.label for section in self._kept))

    def read(self, labels: tuple[str, ...], data: Any) -> tuple[tuple[Section, ...], Mismatch | None]:
        """The parts in one call, and what is wrong with them. No parts: they cannot be kept."""
        unknown = self._unknown(labels)
        if unknown is not None:
            return (), unknown
        if len(labels) == 1:
            values: Mapping[str, Any] = {labels[0]: data}
        else:
            told = meant_by(data) if isinstance(data, str) else data
            if not isinstance(told, Mapping) or set(cast("Mapping[str, Any]", told)) != set(labels):
                names = ", ".join(labels)
                text = f"With several names in `type`, `data` must be an object with exactly these: {names}."
                return (), Mismatch(path="data", text=text)
            values = cast("Mapping[str, Any]", told)
        parts: list[Section] = []
        wrong: Mismatch | None = None
        for label in labels:
            part, mismatch = self._part(label, values[label])
            parts.append(part)
            wrong = wrong or mismatch
        return tuple(parts), wrong

    def keep(self, section: Section) -> None:
        """Add a part."""
        self._kept.append(section)

    def whole(self, more: Sequence[Section] = ()) -> Any:
        """The parts, and these after them; None if there are none."""
        return joined([*self._kept, *more], as_list=self._as_list)

    def wholes(self, label: str | None, data: Any) -> list[Whole]:
        """What may be meant by the last call, the likeliest first.

        `data` under a name that a part may have is one more part. Otherwise it is a whole, in which
        the parts fill what it leaves out. If none of that fits, it is meant without the parts.
        """
        meant: list[Whole] = []
        if label is not None and data is not None and self._may_be(label):
            last = self._part(label, data)[0]
            meant.append(Whole(data=joined([*self._kept, last], as_list=self._as_list)))
        meant.append(self._filled(data))
        if self._kept and data is not None:
            meant.append(Whole(data=data, flags=(REPLACED,)))
        return meant

    def _filled(self, data: Any) -> Whole:
        """A whole with what the parts have beside it: lists grow, other values are replaced."""
        kept = self.whole()
        if data is None or kept is None:
            return Whole(data=kept if data is None else data)
        told = meant_by(data) if isinstance(data, str) else data
        grown = _grown(kept, told)
        if grown is not None:
            return Whole(data=grown, flags=() if grown is told else (MERGED,))
        if not isinstance(kept, dict) or not isinstance(told, dict):
            return Whole(data=data, flags=(REPLACED,))
        whole, flags = cast("dict[str, Any]", kept), dict[str, None]()
        for label, last in cast("dict[str, object]", told).items():
            before: object = whole.get(label, last)
            whole[label] = last
            grown = _grown(before, last) if self._grows(label) else None
            if grown is not None:
                whole[label] = grown
                flags |= {} if grown is last else {MERGED: None}
            elif before is not last and _key(last) != _key(before):
                flags[REPLACED] = None
        return Whole(data=whole, flags=tuple(flags))

    def _grows(self, label: str) -> bool:
        """Whether the last part of this name went on with a list."""
        return next((part.adds for part in reversed(self._kept) if part.label == label), False)

    @property
    def _as_list(self) -> bool:
        return self._checker is not None and self._checker.kind == "array"

    def _may_be(self, label: str) -> bool:
        return label in self.labels or (self._checker is not None and label in self._checker.labels)

    def _unknown(self, labels: tuple[str, ...]) -> Mismatch | None:
        checker = self._checker
        if checker is None or self._as_list:
            return None
        if checker.kind not in (None, "object"):
            text = f"The result is one {checker.kind}, which has no parts: leave `type` out."
            return Mismatch(path="type", text=text)
        strange = [label for label in labels if label not in checker.labels]
        if not strange or not checker.closed:
            return None
        known = ", ".join(checker.labels)
        return Mismatch(path="type", text=f"The schema has no part {strange[0]!r}; it has {known}.")

    def _part(self, label: str, value: Any) -> tuple[Section, Mismatch | None]:
        """A part as it was given, or as its JSON text means it if only that fits."""
        part = self._made(label, value)
        mismatch = self._misfit(part)
        if mismatch is None or not isinstance(value, str):
            return part, mismatch
        meant = meant_by(value)
        if meant is None:
            return part, mismatch
        again = self._made(label, meant)
        wrong = self._misfit(again)
        return (part, mismatch) if wrong is not None else (again, None)

    def _made(self, label: str, value: Any) -> Section:
        adds = self._as_list
        if not adds and self._checker is not None:
            adds = self._checker.is_list(label)
        elif not adds:
            before = [section.value for section in self._kept if section.label == label]
            adds = isinstance(value, list) and all(isinstance(one, list) for one in before)
        return Section(label=label, value=value, adds=adds)

    def _misfit(self, part: Section) -> Mismatch | None:
        checker = self._checker
        if checker is None:
            return None
        if self._as_list:
            wrong = (checker.misfit_of_part([item], 0) for item in _items(part.value))
            return next((one for one in wrong if one is not None), None)
        return checker.misfit_of_part(joined([part]), part.label)


def _grown(kept: object, last: object) -> list[Any] | None:
    """What was kept and is not in the last list, and then that; the last list itself if it has it all.
    None if they are no lists."""
    if not isinstance(kept, list) or not isinstance(last, list):
        return None
    items = cast("list[object]", last)
    known = {_key(item) for item in items}
    missing = [item for item in cast("list[object]", kept) if _key(item) not in known]
    return [*missing, *items] if missing else items


def _key(value: object) -> str:
    """The same for what is equal. What is nested too deeply to be compared is equal to nothing."""
    try:
        return canonical(value)
    except RecursionError:
        return f"nested too deeply: {id(value)}"


def _items(value: Any) -> list[Any]:
    return cast("list[object]", value) if isinstance(value, list) else [value]
