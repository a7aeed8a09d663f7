"""Parameters that several actions share."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field

from crew_plugin.errors import InvalidValue
from crew_plugin.models.spec import SchemaForm, SchemaMode
from crew_tools.params import Params

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.engine.plan import WantedResult

__all__ = ["OfResult", "OfRun", "file_inside"]


class OfRun(Params):
    """Which run is meant."""

    run_id: str = Field(
        default="last",
        description='The run: its id, at least four characters of its beginning or end, or "last".',
    )


async def file_inside(crew: "Crew", written: str, *, by_hand: bool) -> Path:
    """The file that is meant, from the project's folder. Raises `InvalidValue` where a model means one
    outside of the project; a person may mean any."""
    import anyio.to_thread

    root = crew.project.root

    def resolved() -> Path | None:
        try:
            path = (root / Path(written).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError):
            return None
        inside = path.is_relative_to(root) and not path.is_relative_to(crew.project.state_dir)
        return path if (inside or by_hand) and path != root else None

    path = await anyio.to_thread.run_sync(resolved)
    if path is None:
        raise InvalidValue("file", written, f"a file inside the project {str(root)!r}, outside of its state")
    return path


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
