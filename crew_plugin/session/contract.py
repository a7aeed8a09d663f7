"""What a session must hand in, and how often it may get it wrong.

A pure state machine: it is told what was submitted and says what follows. It writes nothing and
knows no clock, so every rung of the ladder can be tested by calling it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import NewResult
from crew_plugin.models.spec import SchemaMode
from crew_plugin.session.schema import Mismatch, SchemaChecker

__all__ = [
    "EMPTY_SUBMITS",
    "FAILED_SUBMITS",
    "REJECTED_SUBMITS",
    "Accepted",
    "Ended",
    "Rejected",
    "ResultContract",
    "Submission",
    "Verdict",
]

REJECTED_SUBMITS: Final = 3
"""So many submits that do not fit the schema are sent back; the next one decides."""
EMPTY_SUBMITS: Final = 3
"""So many empty submits are sent back; the next one ends the attempt."""
FAILED_SUBMITS: Final = 6
"""So many failing calls in a row end the attempt, whatever was wrong with each."""

_DATA_IN_SUMMARY: Final = 500
_WAYS_OUT: Final = (
    "Call submit_result with `summary` (what you did and found, with evidence)"
    "; or with `error` if the task cannot be done, saying what blocks it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One call of submit_result, its arguments cleaned. None and empty mean: not given."""

    summary: str | None = None
    data: Any = None
    artifacts: Mapping[str, str] = field(default_factory=dict[str, str])
    error: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was given at all."""
        return not self.summary and self.data is None and not self.artifacts and not self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The submission is the result."""

    result: NewResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The session must submit again."""

    text: str
    """For the model."""
    path: str
    """Where it is wrong; empty if it is the call as a whole."""
    n: int
    """Failing calls so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The attempt is over without a result."""

    cause: Cause
    kept: Submission | None
    """The last thing submitted that had something in it."""


Verdict = Accepted | Rejected | Ended


class ResultContract:
    """Judges the submissions of one session."""

    def __init__(self, schema: Mapping[str, Any] | None = None, mode: SchemaMode = "permissive") -> None:
        """Raises `InvalidPlan` if the schema cannot be used."""
        self.schema = schema
        self.mode: SchemaMode = mode
        self._checker = SchemaChecker(schema) if schema is not None else None
        self._misfits = 0
        self._empties = 0
        self._failures = 0
        self._kept: Submission | None = None

    def accept(self, submission: Submission) -> Verdict:
        """Judge one call of submit_result."""
        if submission.empty:
            return self._reject_empty()
        self._kept = submission
        if submission.error and submission.data is not None:
            return self.refuse(
                "`error` and `data` exclude each other: `error` says the task could not be done. "
                "Give `data` if you have a result, `error` if you have none.",
                path="error",
            )
        if submission.error or self._checker is None:
            return Accepted(result=_result(submission, submission.data, self._unchecked(submission)))
        data, mismatch = self._fitting(submission.data)
        if mismatch is None:
            return Accepted(result=_result(submission, data, ()))
        return self._reject_misfit(submission, mismatch)

    def refuse(self, problem: str, *, path: str = "") -> Rejected | Ended:
        """Count a call that could not be judged at all: its arguments were not usable."""
        self._failures += 1
        if self._failures >= FAILED_SUBMITS:
            return Ended(
                cause=Cause(
                    code=CauseCode.SUBMIT_FAILURES,
                    message=f"{self._failures} calls of submit_result in a row failed",
                    detail=problem,
                ),
                kept=self._kept,
            )
        return Rejected(text=problem, path=path, n=self._failures)

    def _unchecked(self, submission: Submission) -> tuple[str, ...]:
        return ("unchecked",) if self._checker is None and not submission.error else ()

    def _reject_empty(self) -> Rejected | Ended:
        self._empties += 1
        if self._empties > EMPTY_SUBMITS:
            return Ended(
                cause=Cause(
                    code=CauseCode.EMPTY_SUBMITS,
                    message=f"submit_result was called {self._empties} times with nothing in it",
                ),
                kept=self._kept,
            )
        return self.refuse(
            f"submit_result was called with nothing in it ({self._empties} of {EMPTY_SUBMITS}; "
            f"one more ends your session without a result). {_WAYS_OUT}"
        )

    def _reject_misfit(self, submission: Submission, mismatch: Mismatch) -> Verdict:
        self._misfits += 1
        if self._misfits <= REJECTED_SUBMITS:
            left = REJECTED_SUBMITS - self._misfits
            return self.refuse(
                f"The result was not accepted: `data` does not fit the result schema.\n{mismatch.text}\n"
                f"Correct exactly this and call submit_result again with the whole result. "
                f"({self._misfits} of {REJECTED_SUBMITS}; {left} more of these are sent back.)",
                path=mismatch.path,
            )
        if self.mode == "permissive":
            return Accepted(result=_result(submission, submission.data, ("overridden",)))
        return Ended(
            cause=Cause(
                code=CauseCode.RESULT_REJECTED,
                message=f"{self._misfits} submitted results did not fit the schema",
                detail=mismatch.text,
            ),
            kept=submission,
        )

    def _fitting(self, data: Any) -> tuple[Any, Mismatch | None]:
        """The data, or what its JSON text means if only that fits; and what is wrong with it."""
        assert self._checker is not None
        mismatch = self._checker.mismatch(data)
        if mismatch is None or not isinstance(data, str):
            return data, mismatch
        try:
            meant = json.loads(data)
        except (ValueError, RecursionError):
            return data, mismatch
        if meant is None:
            return data, mismatch
        return meant, self._checker.mismatch(meant)


def _result(submission: Submission, data: Any, flags: tuple[str, ...]) -> NewResult:
    return NewResult(
        summary=submission.summary or _summary_of(submission, data),
        data=data,
        artifacts=submission.artifacts,
        error=submission.error or None,
        flags=flags,
    )


def _summary_of(submission: Submission, data: Any) -> str:
    """What stands for the summary of a result that came without one."""
    if submission.error:
        return submission.error
    if data is None:
        return "No summary was given. Artifacts: " + ", ".join(submission.artifacts)
    text = json.dumps(data, ensure_ascii=False, default=str)
    if len(text) > _DATA_IN_SUMMARY:
        text = text[:_DATA_IN_SUMMARY] + " ..."
    return f"No summary was given. Data: {text}"
