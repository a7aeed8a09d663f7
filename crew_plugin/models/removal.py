"""What is left to tell of what was deleted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crew_plugin.models.records import ArtifactRef
from crew_plugin.models.states import RunState

__all__ = ["Details", "Removal", "Thinned", "UpkeepRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is kept of a run and no result needs."""

    events: int
    """Events that say how things went."""
    artifacts: tuple[ArtifactRef, ...]
    """Bodies that are neither results nor what stands in the place of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinned:
    """What was deleted of a run that stays."""

    run_id: str
    events: int
    artifacts: int
    bodies: tuple[str, ...]
    """Those of its bodies that may be referred to by nothing now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What was deleted of a run: the tombstone that is left of it."""

    run_id: str
    state: RunState
    removed_at: float
    removed_by: str
    reason: str
    counts: Mapping[str, int]
    """Rows by table."""
    bodies: tuple[str, ...]
    """Hashes of what it referred to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepRecord:
    """What was removed that belonged to no run any more."""

    at: float
    actor: str
    reason: str
    done: Mapping[str, Any]
