"""How many sessions may be open at once, counted by what they have in common, and who said so.

For each tag the lowest number wins: the settings say how many there may be, a team or a workflow may
say fewer, and whoever starts the run may say fewer still. Nobody can say more than the settings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from crew_plugin.engine.snapshot import RESOURCE
from crew_plugin.models.spec import RunSpec, StepSpec

__all__ = ["PROVIDER", "Said", "lowest", "policy", "provider_of", "tag_limits", "tags_of"]


PROVIDER: Final = "provider:"
"""What the tag of a provider begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A number, and who said it."""

    who: str
    number: int | None


def provider_of(model: str | None) -> str:
    """Who answers for a model: what stands before the colon; `host` for the host's own choice."""
    provider, colon, _ = (model or "").partition(":")
    return provider if colon and provider else "host"


def tags_of(spec: RunSpec, step: StepSpec) -> frozenset[str]:
    """Everything by which the session of a step is counted."""
    return frozenset(
        {
            f"role:{step.role}",
            f"agent:{step.agent}",
            f"team:{spec.team}",
            PROVIDER + provider_of(step.model),
            *(RESOURCE + name for name in step.resources),
        }
    )


def lowest(what: str, said: Iterable[Said]) -> tuple[int | None, str]:
    """The number that holds, and the decision in words."""
    given = [(each.number, each.who) for each in said if each.number is not None]
    if not given:
        return None, ""
    number, who = min(given, key=lambda pair: pair[0])
    others = ", ".join(f"{other} {count}" for count, other in given if other != who)
    return number, f"{what}: {number} from {who}" + (f" (the lowest; {others})" if others else "")


def tag_limits(
    settings: Mapping[str, int], files: Mapping[str, Said], used: Iterable[str]
) -> tuple[dict[str, int], list[str]]:
    """The limits of all tags that a run uses, and the decisions in words."""
    limits: dict[str, int] = {}
    notes: list[str] = []
    for tag in sorted(set(used)):
        said = [files[tag]] if tag in files else []
        said.append(Said(who="the settings (at_once)", number=settings.get(tag)))
        number, note = lowest(tag, said)
        if number is None and tag.startswith(RESOURCE):
            number, note = 1, f"{tag}: 1, as nobody says more"
        if number is not None:
            limits[tag] = number
            notes.append(note)
    return limits, notes


def policy(said: Iterable[tuple[str, str | None]]) -> tuple[bool, str]:
    """Whether the first failure stops a run: what the first of these says, and the decision in words."""
    for who, word in said:
        if word is not None:
            return word == "fail-fast", f"on failure: {word}, from {who}"
    return False, "on failure: keep-going, as nobody says otherwise"
