"""Tool schemas made from parameter models: flat, inlined, without what models stumble over."""

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from crew_tools.schemas import ToolSchema

__all__ = ["all_schemas", "flat_schema", "rendered"]


class _Flat(GenerateJsonSchema):
    """An optional parameter is one that may be left out; nobody has to hear of null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        shown = super().default_schema(schema)
        if shown.get("default", ...) in (None, False, [], ""):
            del shown["default"]
        return shown

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def flat_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a parameter model, its definitions inlined."""
    raw = model.model_json_schema(schema_generator=_Flat, by_alias=True)
    shown: dict[str, Any] = _inlined(raw, raw.pop("$defs", {}))
    # A model that invents a key is not worth an error; its call says what was ignored.
    shown.pop("additionalProperties", None)
    shown.pop("description", None)
    shown.pop("title", None)
    return shown


def _inlined(schema: object, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    about = cast("dict[str, Any]", schema)
    if "$ref" in about:
        target: dict[str, Any] = definitions[about["$ref"].rpartition("/")[2]]
        return _inlined({**target, **{key: about[key] for key in about if key != "$ref"}}, definitions)
    return {
        key: _inlined(value, definitions)
        for key, value in about.items()
        if not (key == "title" and isinstance(value, str)) and key != "additionalProperties"
    }


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
