"""A result that is handed in by parts: which names they may have, and how they become one whole. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from crew_plugin.session.schema import Mismatch, SchemaChecker

__all__ = ["Section", "Sections", "joined", "meant_by"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part."""

    label: str
    value: Any
    adds: bool
    """It goes on with a list; otherwise it takes the place of what had its name."""


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

    def with_rest(self, label: str | None, data: Any) -> Any:
        """The whole: the parts, and what the last call brings along with them.

        `data` under a name that a part may have is one more part. Otherwise it is a whole, in which
        the parts fill what it leaves out.
        """
        if label is not None and data is not None and self._may_be(label):
            return joined([*self._kept, self._part(label, data)[0]], as_list=self._as_list)
        whole = joined(self._kept, as_list=self._as_list)
        if data is None or whole is None:
            return whole if data is None else data
        if isinstance(whole, dict) and isinstance(data, dict):
            return {**cast("dict[str, Any]", whole), **cast("dict[str, Any]", data)}
        return data

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


def _items(value: Any) -> list[Any]:
    return cast("list[object]", value) if isinstance(value, list) else [value]
