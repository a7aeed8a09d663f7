"""Tool schemas made from parameter models: flat, inlined, without what models stumble over."""

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from pydantic import BaseModel

from crew_tools.schemas import ToolSchema

__all__ = ["all_schemas", "flat_schema", "rendered"]


_NULL = {"type": "null"}
_SAYS_NOTHING: tuple[object, ...] = (None, False, [], "")


def flat_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a parameter model, its definitions inlined."""
    raw = model.model_json_schema(by_alias=True)
    shown: dict[str, Any] = _plain(raw, raw.pop("$defs", {}))
    shown.pop("description", None)
    return shown


def _plain(schema: object, definitions: Mapping[str, Any]) -> Any:
    """The schema without references, without titles and without null: an optional parameter is one
    that may be left out. Unknown keys are not forbidden: a call that invents one is told of it."""
    if isinstance(schema, list):
        return [_plain(item, definitions) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    about = cast("dict[str, Any]", schema)
    if "$ref" in about:
        about = {**definitions[about["$ref"].rpartition("/")[2]], **about}
    options = [option for option in about.get("anyOf", ()) if option != _NULL]
    if len(options) == 1:
        about = {**{key: about[key] for key in about if key != "anyOf"}, **options[0]}
    return {key: _plain(value, definitions) for key, value in about.items() if not _is_noise(key, value)}


def _is_noise(key: str, value: object) -> bool:
    if key == "title":
        return isinstance(value, str)  # else it is a parameter of that name
    return key in ("$ref", "additionalProperties") or (key == "default" and value in _SAYS_NOTHING)


def all_schemas() -> dict[str, ToolSchema]:
    """Every tool of this package that has a generated schema, made from its models now."""
    from crew_tools.team.schema import team_schema

    schemas = [team_schema()]
    for module_name in (
        "crew_tools.files.read",
        "crew_tools.files.grep",
        "crew_tools.files.find",
        "crew_tools.files.ls",
        "crew_tools.subagent.start",
        "crew_tools.subagent.result",
        "crew_tools.subagent.steer",
    ):
        module = import_module(module_name)
        schemas.append(
            ToolSchema(
                name=module.NAME, description=module.DESCRIPTION, parameters=flat_schema(module.PARAMETERS)
            )
        )
    return {schema.name: schema for schema in schemas}


def rendered(schema: ToolSchema) -> str:
    """The file of one schema."""
    body = {
        "name": schema.name,
        "description": schema.description,
        "parameters": dict(schema.parameters),
    }
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
