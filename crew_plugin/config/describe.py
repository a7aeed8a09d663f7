"""The settings in words: what each key may be, and all of them as rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from crew_plugin.config.settings import ProjectMay, Settings

__all__ = ["SettingRow", "allowed", "project_may", "rows", "section_model"]

_WORDS: Final[dict[Any, str]] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One setting."""

    key: str
    """With dots; `<name>` where the user chooses the word."""
    default: Any
    allowed: str
    sentence: str
    project_may: ProjectMay


def section_model(info: FieldInfo) -> type[BaseModel] | None:
    """The model of a key that is a table of settings."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def project_may(info: FieldInfo) -> ProjectMay:
    """What a project's file may do with this key."""
    extra = info.json_schema_extra
    return cast("ProjectMay", extra["project_may"]) if isinstance(extra, dict) else "nothing"


def allowed(info: FieldInfo) -> str:
    """What the key may be, in a few words."""
    words = " or ".join(_kinds(info.annotation))
    low = next((item.ge for item in info.metadata if isinstance(item, Ge)), None)
    high = next((item.le for item in info.metadata if isinstance(item, Le)), None)
    above = next((item.gt for item in info.metadata if isinstance(item, Gt)), None)
    if above is not None:
        return f"{words} above {above}"
    return words if low is None else f"{words} from {low} to {high}"


def _kinds(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        words = get_args(annotation)
        return ["false"] if words == (False,) else ["one of " + ", ".join(words)]
    if get_origin(annotation) is tuple:
        return ["a list of texts"]
    if annotation in _WORDS:
        return [_WORDS[annotation]]
    return [word for item in get_args(annotation) if item is not type(None) for word in _kinds(item)]


def rows(model: type[BaseModel] = Settings, before: str = "") -> Iterator[SettingRow]:
    """Every setting, in the order of the model."""
    for name, info in model.model_fields.items():
        if section := section_model(info):
            yield from rows(section, f"{before}{name}.")
        elif get_origin(info.annotation) is dict:
            yield from rows(get_args(info.annotation)[1], f"{before}{name}.<name>.")
        else:
            yield SettingRow(
                key=before + name,
                default=info.get_default(),
                allowed=allowed(info),
                sentence=info.description or "",
                project_may=project_may(info),
            )
