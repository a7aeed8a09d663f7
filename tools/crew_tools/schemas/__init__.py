"""What models are told about the tools: descriptions and parameters, as generated JSON files.

They are generated (`python -m crew_tools.schemas`) so that offering a tool builds no model: a
host that loads the plugin reads a file instead of importing pydantic. A test compares them with
the parameter models they come from.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["ToolSchema", "load_schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSchema:
    """One tool as it is offered to a model."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema: one flat object, never a union at the top."""


@cache
def load_schema(name: str) -> ToolSchema:
    """The generated schema of a tool."""
    raw = json.loads((files("crew_tools.schemas") / f"{name}.json").read_text(encoding="utf-8"))
    return ToolSchema(name=raw["name"], description=raw["description"], parameters=raw["parameters"])
