"""Reading settings: defaults, the user's file, the project's file, the environment; later wins.

Whatever is wrong in a layer is left out with a warning that names the place, the key, the value
and what would be right; a file that is no TOML at all is an error. The project's file came with
a repository that nobody has to have looked at: it may tighten, not loosen.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from crew_plugin.config.describe import allowed, project_may, rows, section_model
from crew_plugin.config.settings import Settings
from crew_plugin.errors import ConfigError
from crew_plugin.project import CREW_DIR
from crew_plugin.resources.places import CONFIG_FILE, user_folder

__all__ = ["load_settings"]

_ENVIRONMENT: Final = "environment"
_PREFIX: Final = "CREW_"
_STRICTNESS: Final = {"permissive": 0, "strict": 1, False: 0, True: 1}


@dataclass(slots=True, kw_only=True)
class _Layer:
    """One place that settings come from. Nothing of `values` has been believed yet."""

    where: str
    values: Mapping[str, Any]
    is_project: bool = False
    is_environment: bool = False


@dataclass(slots=True, kw_only=True)
class _Merged:
    """What has been accepted so far."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    sources: dict[str, str] = field(default_factory=dict[str, str])
    warnings: list[str] = field(default_factory=list[str])


def load_settings(project_root: Path | None, *, user_root: Path | None = None) -> Settings:
    """The settings for a project, knowing their warnings and where each value came from.

    Blocking: call it off an event loop.

    Raises:
        ConfigError: if a file cannot be read or is no TOML.
    """
    layers = [_from_file((user_root or user_folder()) / CONFIG_FILE)]
    if project_root is not None:
        layers.append(_from_file(project_root / CREW_DIR / CONFIG_FILE, is_project=True))
    merged = _Merged()
    for layer in layers:
        _take_section(Settings, layer.values, (), layer, merged)
    _warn_of_unknown_variables(merged)
    environment = _Layer(where=_ENVIRONMENT, values=_Environment(Settings)(), is_environment=True)
    _take_section(Settings, environment.values, (), environment, merged)
    return Settings(**merged.values).read_from(tuple(merged.warnings), merged.sources)


def _from_file(path: Path, *, is_project: bool = False) -> _Layer:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        values = {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None
    return _Layer(where=str(path), values=values, is_project=is_project)


class _Environment(EnvSettingsSource):
    """The variables `CREW_...`, as nested values."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """The JSON that `value` is, or `value` itself, which is then reported like any other."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _take_section(
    model: type[BaseModel], raw: Any, path: tuple[str, ...], layer: _Layer, merged: _Merged
) -> None:
    """Accept what is right of one table."""
    if not isinstance(raw, Mapping):
        merged.warnings.append(_wrong(layer, path, raw, "a table"))
        return
    for key, value in cast("Mapping[str, Any]", raw).items():
        info = model.model_fields.get(key)
        at = (*path, key)
        if info is None:
            merged.warnings.append(_unknown(layer, at, model.model_fields))
        elif section := section_model(info):
            _take_section(section, value, at, layer, merged)
        elif entries := _entry_model(info):
            _take_entries(entries, value, at, layer, merged)
        else:
            _take_value(info, value, at, layer, merged)


def _entry_model(info: FieldInfo) -> type[BaseModel] | None:
    """The model of the values, if the key is a table whose own keys are free."""
    if get_origin(info.annotation) is not dict:
        return None
    return cast("type[BaseModel]", get_args(info.annotation)[1])


def _take_entries(
    model: type[BaseModel], raw: Any, path: tuple[str, ...], layer: _Layer, merged: _Merged
) -> None:
    if not isinstance(raw, Mapping):
        merged.warnings.append(_wrong(layer, path, raw, "a table"))
        return
    for name, value in cast("Mapping[str, Any]", raw).items():
        _take_section(model, value, (*path, name), layer, merged)


def _take_value(info: FieldInfo, value: Any, path: tuple[str, ...], layer: _Layer, merged: _Merged) -> None:
    if path == ("trusted_projects",) and layer.is_environment:
        merged.warnings.append(f"{_place(layer, path)} is ignored: only the user's file can trust a project")
        return
    try:
        accepted = _checked(info, value, from_text=layer.is_environment)
    except ValidationError:
        merged.warnings.append(_wrong(layer, path, value, allowed(info)))
        return
    if layer.is_project and (refusal := _refused(info, accepted, path, merged)):
        merged.warnings.append(f"{_place(layer, path)} = {_shown(value)} is ignored: {refusal}")
        return
    _put(merged.values, path, accepted)
    merged.sources[".".join(path)] = _place(layer, path) if layer.is_environment else layer.where


def _checked(info: FieldInfo, value: Any, *, from_text: bool) -> Any:
    """The value as the key's type; a text from the environment is first read as JSON."""
    annotated = cast("Any", Annotated[info.annotation, info])
    adapter: TypeAdapter[Any] = TypeAdapter(annotated, config=ConfigDict(allow_inf_nan=False))
    # JSON is strict about types and still lets an array be a tuple.
    as_json = value if from_text and isinstance(value, str) else json.dumps(value, default=str)
    try:
        return adapter.validate_json(as_json, strict=True)
    except ValidationError:
        if not from_text:
            raise
    return adapter.validate_python(value)


def _refused(info: FieldInfo, value: Any, path: tuple[str, ...], merged: _Merged) -> str:
    """Why a project may not set the key to this; empty if it may."""
    now = _get(merged.values, path, info.default)
    match project_may(info):
        case "nothing":
            return "a project's file cannot set this; put it into the user's file"
        case "lower":
            refused = value is None or (now is not None and value > now)
            return f"a project's file can only lower it, and it is {_shown(now)}" if refused else ""
        case "tighten":
            refused = _STRICTNESS[value] < _STRICTNESS[now]
            return f"a project's file can only make it stricter, and it is {_shown(now)}" if refused else ""
        case "set":
            return ""


def _get(values: dict[str, Any], path: tuple[str, ...], default: Any) -> Any:
    for key in path:
        if key not in values:
            return default
        values = values[key]
    return values


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value


def _place(layer: _Layer, path: tuple[str, ...]) -> str:
    if layer.is_environment:
        return _variable(path)
    return f"{layer.where}: {'.'.join(path)}"


def _variable(path: Iterable[str]) -> str:
    return _PREFIX + "__".join(path).upper()


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _wrong(layer: _Layer, path: tuple[str, ...], value: Any, wanted: str) -> str:
    return f"{_place(layer, path)} = {_shown(value)} is ignored: it must be {wanted}"


def _unknown(layer: _Layer, path: tuple[str, ...], known: Iterable[str]) -> str:
    key = path[-1]
    near = difflib.get_close_matches(key, list(known), n=1) or [
        row.key for row in rows() if row.key.rsplit(".", 1)[-1] == key
    ]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{_place(layer, path)} is no setting{hint} (ignored)"


def _warn_of_unknown_variables(merged: _Merged) -> None:
    """Other programs may own variables that begin like ours, so only near misses are told."""
    known = [_variable(row.key.split(".")) for row in rows()]
    sections = tuple(_variable([key]) for key in Settings.model_fields)
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(_PREFIX) or upper in known or upper in sections:
            continue
        near = difflib.get_close_matches(upper, known, n=1, cutoff=0.85)
        if near and not upper.startswith(tuple(section + "__" for section in sections)):
            merged.warnings.append(f"{name} is no setting; did you mean {near[0]}? (ignored)")
