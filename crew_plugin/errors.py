"""Every error of the crew, sorted by who must act.

CrewError
|- CallerError              whoever made the call (a model or a person) must change it
|  |- InvalidValue          a parameter has a value that is not allowed
|  |- UnknownName           no such team, workflow, agent, role, run, task, ...
|  |  `- Forgotten          the run was deleted; says when, by whom and why
|  |- BodyRemoved           the body is not kept any more; says when it was deleted and why
|  |- InvalidPlan           a workflow cannot be run as written
|  |- BadBundle             a file is no run bundle that can be imported
|  `- NotAllowed            the caller may not do this, or not without `force`
|     `- NotConfirmed       it is destructive, and nobody confirmed it
|- OperatorMustAct          the person who runs the machine must change something
|  |- StateUnwritable       the project's state folder cannot be written
|  |  `- StateDamaged       its file is damaged, or is not a store
|  |- StoreTooNew           the store was written by a newer crew-plugin
|  |- ConfigError           a configuration file cannot be used
|  `- HostUnsupported       the host is missing, too old, too new, or lacks a capability
|- StaleView                the writer must look again; nothing was written
|  |- IllegalTransition     the current state does not allow this one
|  |- Fenced                another supervisor owns the run now
|  `- LeaseHeld             a live supervisor owns the run
|- WorkerLost               a session's own process is gone; a new one may do
`- EngineError              a model provider failed; says whether trying again can help
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

__all__ = [
    "BadBundle",
    "BodyRemoved",
    "CallerError",
    "ConfigError",
    "CrewError",
    "EngineError",
    "EngineErrorKind",
    "Fenced",
    "Forgotten",
    "HostUnsupported",
    "IllegalTransition",
    "InvalidPlan",
    "InvalidValue",
    "LeaseHeld",
    "NotAllowed",
    "NotConfirmed",
    "OperatorMustAct",
    "StaleView",
    "StateDamaged",
    "StateUnwritable",
    "StoreTooNew",
    "UnknownName",
    "WorkerLost",
]


class CrewError(Exception):
    """Base of all errors of the crew. `str()` of it is fit to be shown to a person or a model."""


class CallerError(CrewError):
    """The call itself must change."""


class InvalidValue(CallerError):
    """A parameter has a value that is not allowed."""

    def __init__(self, parameter: str, value: object, allowed: Iterable[str] | str) -> None:
        self.parameter = parameter
        self.value = value
        wanted = allowed if isinstance(allowed, str) else "one of: " + ", ".join(allowed)
        shown = repr(value)
        super().__init__(
            f"{parameter} must be {wanted}; got {shown if len(shown) <= 80 else shown[:77] + '...'}"
        )


class UnknownName(CallerError):
    """Nothing has this name. Names the nearest ones, and all of them when they are few."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, note: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(set(known)))
        self.nearest = tuple(difflib.get_close_matches(name, self.known, n=3, cutoff=0.5))
        more = f"; {note}" if note else ""
        super().__init__(f"there is no {kind} {name!r}; {self._hint()}{more}")

    def _hint(self) -> str:
        if not self.known:
            return "none exists yet"
        if len(self.known) <= 12:
            known = "known: " + ", ".join(self.known)
            return f"did you mean {self.nearest[0]!r}? {known}" if self.nearest else known
        if self.nearest:
            return "did you mean " + " or ".join(repr(near) for near in self.nearest) + "?"
        return f"{len(self.known)} exist, none with a similar name; list them first"


class Forgotten(UnknownName):
    """The run was deleted. Nothing can be read of it or written to it."""

    def __init__(self, run_id: str, story: str) -> None:
        super().__init__("run", run_id, ())
        self.args = (f"run {run_id} {story}",)


class BodyRemoved(CallerError):
    """A stored body is not kept any more. What it was is still known."""

    def __init__(self, sha256: str, story: str) -> None:
        self.story = story
        super().__init__(f"artifact {sha256} was {story}")


class InvalidPlan(CallerError):
    """A team and workflow cannot be run as written. Nothing was written down."""

    def __init__(self, what: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{what} cannot be run: " + "; ".join(self.problems))


class BadBundle(CallerError):
    """A file is no run bundle, or one that must not be believed. Nothing was written down."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name} cannot be imported: {reason}")


class NotAllowed(CallerError):
    """The caller may not do this, or must say `force` first."""


class NotConfirmed(NotAllowed):
    """It is destructive and was not confirmed. Nothing was changed."""

    def __init__(self, deed: str, how: str) -> None:
        self.deed = deed
        self.how = how
        super().__init__(f"nothing was changed: this would {deed}; to do it, say {how}")


class OperatorMustAct(CrewError):
    """The person who runs the machine must change something."""


class StateUnwritable(OperatorMustAct):
    """The project's state cannot be written; nothing was half written."""

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(self._words())

    def _words(self) -> str:
        return (
            f"cannot write the crew's state at {self.path!r}: {self.reason}; "
            "make it writable, free some space, or give another folder with --state-dir"
        )


class StateDamaged(StateUnwritable):
    """What should be the store is damaged, or is something else. It was left as it is."""

    def _words(self) -> str:
        return (
            f"the crew's store at {self.path!r} cannot be used: {self.reason}; move it away and an empty "
            "one is made (earlier runs are then in what you moved), or give another folder with --state-dir"
        )


class StoreTooNew(OperatorMustAct):
    """The store was written by a newer crew-plugin."""

    def __init__(self, path: object, found: int, supported: int) -> None:
        self.found = found
        self.supported = supported
        super().__init__(
            f"the store at {str(path)!r} has schema version {found}, this crew-plugin knows up to "
            f"{supported}; upgrade crew-plugin, or use another folder with --state-dir"
        )


class ConfigError(OperatorMustAct):
    """A configuration file cannot be used as it is."""


class HostUnsupported(OperatorMustAct):
    """The host is missing, too old, too new, or lacks a capability that the plan needs."""


class StaleView(CrewError):
    """The writer's view was out of date. Nothing was written; look again."""


class IllegalTransition(StaleView):
    """The current state does not allow the wanted one."""

    def __init__(self, what: str, ident: str, current: str, wanted: str) -> None:
        self.what = what
        self.ident = ident
        self.current = current
        self.wanted = wanted
        super().__init__(f"{what} {ident} is {current} and cannot become {wanted}")


class Fenced(StaleView):
    """Another supervisor took the run over; whatever this one still does must not be written."""

    def __init__(self, run_id: str, held: int, current: int) -> None:
        self.run_id = run_id
        self.held = held
        self.current = current
        super().__init__(
            f"run {run_id} belongs to another supervisor now (epoch {current}, this one held {held}); what "
            "this process still did for it was stopped, and nothing more of it is written"
        )


class LeaseHeld(StaleView):
    """A live supervisor owns the run."""

    def __init__(self, run_id: str, pid: int) -> None:
        self.run_id = run_id
        self.pid = pid
        super().__init__(f"run {run_id} is owned by the live process {pid}")


EngineErrorKind = Literal[
    "auth", "rate_limit", "overloaded", "timeout", "network", "context_overflow", "bad_request", "unknown"
]


class WorkerLost(CrewError):
    """The process that a session lived in is gone, or does not answer."""

    def __init__(self, pid: int, how: str) -> None:
        self.pid = pid
        self.how = how
        super().__init__(f"the worker process {pid} {how}")


class EngineError(CrewError):
    """A model provider failed.

    `kind` sorts the failure, `retryable` says whether the same request may succeed later,
    `retry_after` is the provider's own wish in seconds where it gave one.
    """

    def __init__(
        self, kind: EngineErrorKind, message: str, *, retryable: bool, retry_after: float | None = None
    ) -> None:
        self.kind: EngineErrorKind = kind
        self.retryable = retryable
        self.retry_after = retry_after
        super().__init__(message)
