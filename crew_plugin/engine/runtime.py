"""How the sessions of a run are executed: from what is asked for and what is there to one kind. Pure.

A dry run happens only where it was asked for: whatever else cannot be had is refused, or had in
another way with the reason on record, but nothing ever becomes a run in which nothing is done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from crew_plugin.errors import HostUnsupported
from crew_plugin.host import EngineCapability, HostInfo
from crew_plugin.models.spec import RuntimeMode
from crew_plugin.models.states import SessionKind

__all__ = ["NEEDED", "Resolved", "RuntimeFacts", "resolve_runtime"]

NEEDED: Final = frozenset({EngineCapability.SYSTEM_PROMPT, EngineCapability.RESTRICT_TOOLS})
"""What a live session cannot do without: the agent's own prompt, and an end by its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """What this process has to execute sessions with."""

    engines: Mapping[SessionKind, str]
    """The runners that are there, each with the name of its engine."""
    capabilities: frozenset[EngineCapability]
    """What the engine of live sessions can do."""
    host: HostInfo | None = None

    def looked_at(self) -> tuple[str, ...]:
        """What the choice was made from, a line for each fact."""
        host = (
            f"host: {self.host.name} {self.host.version}" if self.host else "host: none that tells of itself"
        )
        runners = ", ".join(f"{kind} ({engine})" for kind, engine in sorted(self.engines.items()))
        return (
            host,
            f"what the host offers: {_listed(self.host.capabilities if self.host else ())}",
            f"runners: {runners or 'none'}",
            f"what the engine can do: {_listed(self.capabilities)}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """How the sessions of a run are executed, and why."""

    requested: RuntimeMode
    kind: SessionKind
    reason: str
    fallback: bool = False
    """It is another kind than the one that was asked for, or than `auto` prefers."""
    looked_at: tuple[str, ...] = ()


def resolve_runtime(requested: RuntimeMode, facts: RuntimeFacts) -> Resolved:
    """The kind of session for what was asked for.

    Raises:
        HostUnsupported: nothing here can execute it, or not in the only way that was asked for.
    """
    kind, reason, fallback = _choice(requested, facts)
    return Resolved(
        requested=requested, kind=kind, reason=reason, fallback=fallback, looked_at=facts.looked_at()
    )


def _choice(requested: RuntimeMode, facts: RuntimeFacts) -> tuple[SessionKind, str, bool]:
    no_live = _why_no_live(facts)
    no_child = None if SessionKind.CHILD in facts.engines else "this host has no runner for child processes"
    if requested == "scaffold":
        if SessionKind.SCAFFOLD not in facts.engines:
            raise HostUnsupported(_cannot("scaffold", "it has no runner for dry runs", facts))
        return SessionKind.SCAFFOLD, "a dry run was asked for: prompts are written, no model is asked", False
    if requested == "live-session":
        if no_live:
            raise HostUnsupported(_cannot("live-session", no_live, facts))
        return SessionKind.LIVE, "live sessions were asked for", False
    if requested == "child-process":
        if no_child is None:
            return SessionKind.CHILD, "child processes were asked for", False
        if no_live:
            raise HostUnsupported(_cannot("child-process", f"{no_child}, and {no_live}", facts))
        return SessionKind.LIVE, f"child processes were asked for, but {no_child}", True
    if no_live is None:
        return SessionKind.LIVE, "the host's process can hold live sessions, which cost least", False
    if no_child is None:
        return SessionKind.CHILD, f"no live sessions: {no_live}", True
    raise HostUnsupported(_cannot("auto", f"{no_live}, and {no_child}", facts))


def _why_no_live(facts: RuntimeFacts) -> str | None:
    if SessionKind.LIVE not in facts.engines:
        return "this host has no engine for live sessions"
    missing = NEEDED - facts.capabilities
    if missing:
        return f"the engine of this host lacks what the plan needs: {_listed(missing)}"
    return None


def _cannot(requested: RuntimeMode, why: str, facts: RuntimeFacts) -> str:
    known = ", ".join(sorted(facts.engines)) or "none"
    return f"this host cannot execute runtime {requested!r}: {why}; the kinds of session it has: {known}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
