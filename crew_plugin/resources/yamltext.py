"""YAML of resource files: plain data with the line of every key, and nothing that can hurt.

Resource files may come with a repository that nobody has looked at, so this reads less than
YAML: mappings with text keys, lists, text, numbers, true, false and null. Anchors and tags are
refused, depth is bounded. The events of the parser are used, not its composer: the composer of
the C library recurses and takes the process down on deeply nested text.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:
    import yaml

__all__ = ["BadText", "Json", "Mapped", "dump_given", "dump_mapping", "load_mapping"]

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None

_MAX_DEPTH: Final = 32
_TOO_DEEP: Final = f"nested deeper than {_MAX_DEPTH} levels"
_LIBRARY_DEPTH: Final = "nesting depth"
"""What newer releases of the C library say of far deeper text, before any of its events comes out."""
_TAG: Final = "tag:yaml.org,2002:"
_AS_TEXT: Final = frozenset({_TAG + "str", _TAG + "timestamp", _TAG + "value", _TAG + "merge"})
"""Plain words that YAML would read as something that no key of ours wants stay text."""


class BadText(Exception):
    """A resource's text cannot be used. Caught where files are read, and reported."""

    def __init__(self, message: str, line: int) -> None:
        self.message = message
        self.line = line
        super().__init__(f"line {line}: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """A mapping and where each of its keys stands."""

    values: dict[str, Json]
    lines: dict[str, int]


@dataclass(slots=True, kw_only=True)
class _Open:
    """A collection that has begun and not ended. `key` waits for its value in a mapping."""

    value: list[Json] | dict[str, Json]
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict[str, int])

    def take(self, item: Json, line: int, *, plain: bool) -> None:
        if isinstance(self.value, list):
            self.value.append(item)
        elif self.key is not None:
            self.value[self.key] = item
            self.key = None
        else:
            self._take_key(item, line, plain=plain)

    def _take_key(self, item: Json, line: int, *, plain: bool) -> None:
        assert isinstance(self.value, dict)
        if not isinstance(item, str):
            wrote = "a list or mapping" if not plain else f"{item!r}"
            raise BadText(f"a key must be text, not {wrote}; put it in quotes", line)
        if item in self.value or item in self.lines:
            raise BadText(f"{item!r} is given twice", line)
        self.key = item
        self.lines[item] = line


class _Loader(Protocol):
    """What is used of a loader of either kind; the stubs of the library do not say."""

    def check_event(self) -> bool: ...
    def get_event(self) -> Any: ...
    def resolve(self, kind: type, value: str, implicit: tuple[bool, bool]) -> str: ...
    def construct_object(self, node: object) -> Any: ...
    def dispose(self) -> None: ...


def load_mapping(text: str, first_line: int) -> Mapped:
    """The mapping that `text` is; empty for an empty text.

    Raises:
        BadText: if it is no such mapping, with the line counted from `first_line`.
    """
    import yaml

    loader = cast("_Loader", getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text))
    try:
        return _build(loader, first_line)
    except yaml.MarkedYAMLError as error:
        # A scanner notices late; where it began is where the mistake is.
        began = error.context_mark if (error.context or "").startswith("while scanning") else None
        mark = began or error.problem_mark or error.context_mark
        line = first_line + (mark.line if mark else 0)
        problem = error.problem or error.context or ""
        if _LIBRARY_DEPTH in problem:
            raise BadText(_TOO_DEEP, line) from None
        raise BadText(f"not valid YAML: {problem}", line) from None
    except yaml.YAMLError as error:
        raise BadText(f"not valid YAML: {str(error).splitlines()[0]}", first_line) from None
    finally:
        loader.dispose()


def _build(loader: "_Loader", first_line: int) -> Mapped:
    import yaml

    root = _Open(value=[])
    stack = [root]
    while loader.check_event():
        event = loader.get_event()
        line = first_line + int(event.start_mark.line)
        if isinstance(event, yaml.AliasEvent):
            raise BadText("anchors and aliases are not used here; write the value out", line)
        if isinstance(event, yaml.DocumentStartEvent) and event.explicit:
            raise BadText("'---' does not belong here", line)
        if isinstance(event, yaml.ScalarEvent):
            stack[-1].take(_scalar(loader, event, line), line, plain=True)
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.tag is not None:
                raise BadText(f"the tag {event.tag!r} is not used here", line)
            if len(stack) > _MAX_DEPTH:
                raise BadText(_TOO_DEEP, line)
            stack.append(_Open(value={} if isinstance(event, yaml.MappingStartEvent) else []))
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            if len(stack) == 1:
                root.lines = closed.lines
            stack[-1].take(closed.value, line, plain=False)
    return _only_mapping(root, first_line)


def _only_mapping(root: _Open, first_line: int) -> Mapped:
    assert isinstance(root.value, list)
    top = root.value[0] if root.value else {}
    if top is None:
        top = {}
    if not isinstance(top, dict):
        raise BadText("must be lines of 'key: value'", first_line)
    return Mapped(values=top, lines=root.lines)


def _scalar(loader: "_Loader", event: "yaml.ScalarEvent", line: int) -> Json:
    import yaml

    if event.tag is not None:
        raise BadText(f"the tag {event.tag!r} is not used here", line)
    tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag in _AS_TEXT:
        return str(event.value)
    try:
        value: Any = loader.construct_object(yaml.ScalarNode(tag, event.value))
    except ValueError:  # e.g. more digits than Python converts
        raise BadText(f"{event.value[:40]!r} is not a usable number", line) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise BadText(f"{event.value[:40]!r} is not a finite number", line)
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(event.value)


def dump_mapping(values: dict[str, Json]) -> str:
    """`values` as YAML that `load_mapping` reads back equal, without an empty line inside."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes text with line breaks in double quotes, on one line."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    def text(dumper: Any, value: str) -> "yaml.ScalarNode":
        broken = any(mark in value for mark in "\n\r\x85\u2028\u2029")
        node: yaml.ScalarNode = dumper.represent_scalar(_TAG + "str", value, style='"' if broken else None)
        return node

    Dumper.add_representer(str, text)
    stream = io.StringIO()
    dumper = Dumper(stream, sort_keys=False, allow_unicode=True, width=math.inf, default_flow_style=None)
    try:
        dumper.open()
        # One key a line; what is inside of it may share one.
        dumper.serialize(dumper.represent_mapping(_TAG + "map", values, flow_style=False))
        dumper.close()
    finally:
        dumper.dispose()
    return stream.getvalue()


def dump_given(values: Mapping[str, Json], extras: Mapping[str, Json]) -> str:
    """What is given of `values`, and all of `extras`, as YAML."""
    given: dict[str, Json] = {key: value for key, value in values.items() if value is not None}
    given.update(extras)
    return dump_mapping(given)
