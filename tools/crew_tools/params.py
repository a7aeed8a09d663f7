"""Reading the arguments that a model wrote: forgiving in form, strict in meaning.

Models fill parameters they do not need with empty strings and nulls, write numbers and truth
values as text, wrap lists in strings, and invent keys. None of that is worth an error. A value
that is really wrong is: the error then names the parameter and what it may be.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo

from crew_plugin.errors import CallerError, InvalidValue

__all__ = ["LooseList", "Params", "Parsed", "Skills", "parse"]

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MAX_SKILLS = 32
_MAX_SKILL_NAME = 80
_SKILLS_ARE = "names of skills with commas between them, or false for none"


class Params(BaseModel):
    """Base of every action's and tool's parameters, and of the objects inside them."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def spellings(cls) -> tuple[str, ...]:
        """The names that a caller uses."""
        return tuple(key for name, field in cls.model_fields.items() for key in _of_field(name, field))

    @model_validator(mode="before")
    @classmethod
    def _tidied(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return _tidy(cast("Mapping[str, Any]", value), cls.spellings())[0]


def _of_field(name: str, field: FieldInfo) -> tuple[str, ...]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (alias if isinstance(alias, str) else name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed[ParamsT: Params]:
    """Checked parameters, and the keys that were dropped because nothing knows them."""

    params: ParamsT
    dropped: tuple[str, ...]

    def details(self) -> dict[str, Any]:
        """What to say about it in a tool's details."""
        return {"ignored_parameters": list(self.dropped)} if self.dropped else {}


def parse[ParamsT: Params](
    model: type[ParamsT], arguments: Mapping[str, Any], *, elsewhere: Iterable[str] = ()
) -> Parsed[ParamsT]:
    """Arguments as `model`. Keys in `elsewhere` belong to other actions and are passed over.

    Raises `InvalidValue` for a wrong value and `CallerError` for a missing or a second wrong one.
    """
    kept, dropped = _tidy(arguments, model.spellings())
    others = frozenset(elsewhere)
    try:
        params = model.model_validate(kept)
    except ValidationError as error:
        raise _told(model, error, kept) from None
    return Parsed(params=params, dropped=tuple(key for key in dropped if _plain(key) not in others))


def _tidy(arguments: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for written, value in arguments.items():
        if _is_unset(value):
            continue
        key = written if written in keys else _plain(str(written))
        if key in keys:
            kept.setdefault(key, value)
        else:
            dropped.append(str(written))
    return kept, dropped


def _plain(written: str) -> str:
    """`runId`, `run-id` and `async_` as `run_id` and `async`."""
    return _HUMP.sub("_", written).replace("-", "_").lower().rstrip("_")


def _is_unset(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip() or value.strip().lower() in ("null", "none", "undefined")
    return value is None or value == [] or value == {}


# --- types -----------------------------------------------------------------------------------


def _as_list(value: object) -> object:
    """A list that arrived as JSON text, or a single thing where a list was meant."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"a list; the text given is not valid JSON ({error})") from None
    if isinstance(value, str | Mapping):
        return [cast("object", value)]
    if not isinstance(value, list):
        return value
    return [inner for inner in cast("list[object]", value) if not _is_unset(inner)]


LooseList = BeforeValidator(_as_list)
"""Marks a list that may also arrive as JSON text or as one bare element."""


def _as_skills(value: object) -> object:
    if value is True:
        return None
    if value is False:
        return False
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "off"):
        return None if value.strip().lower() == "true" else False
    if isinstance(value, str) and not value.lstrip().startswith("["):
        value = value.split(",")
    names = _as_list(value)
    if not isinstance(names, list):
        raise ValueError(_SKILLS_ARE)
    cleaned: list[str] = []
    for name in cast("list[object]", names):
        if not isinstance(name, str):
            raise ValueError(_SKILLS_ARE)
        if name.strip():
            cleaned.append(name.strip())
    if len(cleaned) > _MAX_SKILLS or any(len(name) > _MAX_SKILL_NAME for name in cleaned):
        raise ValueError(f"at most {_MAX_SKILLS} names of at most {_MAX_SKILL_NAME} characters")
    return tuple(cleaned) or None


Skills = Annotated[
    tuple[str, ...] | Literal[False] | None,
    BeforeValidator(_as_skills),
    WithJsonSchema({"type": "string"}),
]
"""`"a, b"`, `["a", "b"]`, false for no skills at all, true or nothing for no change."""


# --- errors ----------------------------------------------------------------------------------


def _told(model: type[Params], error: ValidationError, given: Mapping[str, Any]) -> CallerError:
    told = [_one(model, problem["loc"], problem, given) for problem in error.errors(include_url=False)]
    distinct = list({str(one): one for one in told}.values())
    if len(distinct) == 1:
        return distinct[0]
    return CallerError("; ".join(str(one) for one in distinct[:5]))


def _one(
    model: type[Params], loc: tuple[int | str, ...], problem: Any, given: Mapping[str, Any]
) -> CallerError:
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if problem["type"] == "missing":
        return CallerError(f"{name or 'a value'} is needed")
    if problem["type"] == "value_error":
        return InvalidValue(name, _at(given, loc), str(problem["ctx"]["error"]))
    return InvalidValue(name, _at(given, loc), _allowed(model, loc, problem))


def _at(given: Any, loc: tuple[int | str, ...]) -> object:
    for part in loc:
        try:
            given = given[part]
        except (KeyError, IndexError, TypeError):
            break
    return given


_KINDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}


def _allowed(model: type[Params], loc: tuple[int | str, ...], problem: Any) -> list[str] | str:
    properties: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    schema = properties.get(str(loc[0]), {}) if len(loc) == 1 else {}
    options: list[dict[str, Any]] = [schema, *schema.get("anyOf", ())]
    for option in options:
        if "enum" in option:
            return [str(value) for value in option["enum"]]
        if option.get("type") in _KINDS:
            return _KINDS[option["type"]] + _bounds(option)
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "an object"
    return str(problem["msg"])[:1].lower() + str(problem["msg"])[1:]


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return f" of at most {high}" if high is not None else ""
