"""Parameters that several actions share."""

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field

from crew_plugin.models.spec import SchemaForm, SchemaMode
from crew_tools.params import Params

if TYPE_CHECKING:
    from crew_plugin.engine.plan import WantedResult

__all__ = ["OfResult", "OfRun"]


class OfRun(Params):
    """Which run is meant."""

    run_id: str = Field(
        default="last",
        description='The run: its id, at least four characters of its beginning or end, or "last".',
    )


def _as_schema(value: object) -> object:
    """A schema that arrived as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"an object; the text given is not valid JSON ({error})") from None


class OfResult(Params):
    """What the caller wants of results."""

    result_schema: Annotated[dict[str, Any] | None, BeforeValidator(_as_schema)] = Field(
        default=None,
        validation_alias=AliasChoices("schema", "result_schema", "output_schema"),
        description="The form that the result's data must have, over what agent and workflow say: JSON "
        "Schema or JSON Type Definition. In a workflow it is for the steps that no other builds on.",
    )
    schema_form: SchemaForm = Field(
        default="auto", description="Which of the two the schema is, where it does not show."
    )
    schema_mode: SchemaMode | None = Field(
        default=None,
        description="After three results that do not fit: permissive accepts and flags, strict fails.",
    )

    def wanted(self) -> "WantedResult":
        """As a plan takes it."""
        from crew_plugin.engine.plan import WantedResult

        return WantedResult(schema=self.result_schema, form=self.schema_form, mode=self.schema_mode)
