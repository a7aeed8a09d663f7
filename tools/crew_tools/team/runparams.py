"""Parameters that several actions share."""

from pydantic import Field

from crew_tools.params import Params

__all__ = ["OfRun"]


class OfRun(Params):
    """Which run is meant."""

    run_id: str = Field(
        default="last",
        description='The run: its id, at least four characters of its beginning or end, or "last".',
    )
