"""What a session must hand in, and how often it may get it wrong.

A pure state machine: it is told what was submitted and says what follows. It writes nothing and
knows no clock, so every rung of the ladder can be tested by calling it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import NewResult
from crew_plugin.models.spec import SchemaForm, SchemaMode
from crew_plugin.session.schema import Mismatch, SchemaChecker
from crew_plugin.session.sections import Section, Sections, Whole, meant_by

__all__ = [
    "EMPTY_SUBMITS",
    "FAILED_SUBMITS",
    "REJECTED_SUBMITS",
    "Accepted",
    "Ended",
    "Held",
    "Kept",
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
    labels: tuple[str, ...] = ()
    """`data` holds these parts of the result, and the session goes on."""
    label: str | None = None
    """The last call names what it hands in; without anything in it, its text stands for it."""

    @property
    def empty(self) -> bool:
        """Whether nothing was given at all."""
        return not self.summary and self.data is None and not self.artifacts and not self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The submission is the result."""

    result: NewResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Parts of the result; the session goes on."""

    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The result fits, and is not taken yet: something that belongs to it is not over."""

    text: str
    """For the model."""


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


Verdict = Accepted | Kept | Held | Rejected | Ended


class ResultContract:
    """Judges the submissions of one session."""

    def __init__(
        self,
        schema: Mapping[str, Any] | None = None,
        mode: SchemaMode = "permissive",
        form: SchemaForm = "auto",
    ) -> None:
        """Raises `InvalidPlan` if the schema cannot be used."""
        self.schema = schema
        self.mode: SchemaMode = mode
        self._checker = SchemaChecker(schema, form) if schema is not None else None
        self._sections = Sections(self._checker)
        self._misfits = 0
        self._empties = 0
        self._failures = 0
        self._kept: Submission | None = None
        self._over: Ended | None = None

    @property
    def kind(self) -> str | None:
        """The one JSON type that `data` must have; None if there are several or any will do."""
        return self._checker.kind if self._checker is not None else None

    def remember(self, parts: Sequence[Section]) -> None:
        """These were handed in before, by the same session in another process."""
        for part in parts:
            self._sections.keep(part)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the parts handed in so far."""
        return self._sections.labels

    def accept(self, submission: Submission, *, prose: str = "", last: bool = False) -> Verdict:
        """Judge one call of submit_result.

        `prose` is the text of the turn in which it is made. `last` says that no other way is left
        to the session: then parts are taken for the end of it.
        """
        if self._over is not None:
            return self._over
        if submission.labels and not last:
            return self._part(submission)
        parts: tuple[Section, ...] = ()
        if submission.labels and submission.data is not None:
            # Kept with the call only: one that is sent back is made again as a whole.
            parts, _ = self._sections.read(submission.labels, submission.data)
        if submission.empty and submission.label is not None and self._checker is None:
            submission = replace(submission, summary=prose.strip() or None)
        if submission.empty and not self._sections.labels:
            if submission.label is not None and self._checker is not None:
                return self.refuse("the result has a schema, so text alone is none: give `data`", path="data")
            return self._reject_empty()
        self._kept = submission
        if submission.error and submission.data is not None and not parts:
            return self.refuse(
                "`error` and `data` exclude each other: `error` says the task could not be done. "
                "Give `data` if you have a result, `error` if you have none.",
                path="error",
            )
        if submission.error:
            # What it handed in before it gave up is no result, and is not lost with it.
            flags = ("partial",) if self._sections.labels or parts else ()
            return self._take(submission, self._sections.whole(parts), flags)
        return self._whole(submission, parts)

    def refuse(self, problem: str, *, path: str = "", written: str = "") -> Rejected | Ended:
        """Count a call that could not be judged at all: its arguments were not usable. What was
        `written` in their place is kept if nothing better comes."""
        if self._over is not None:
            return self._over
        if written.strip() and self._kept is None:
            self._kept = Submission(summary=written)
        self._failures += 1
        if self._failures >= FAILED_SUBMITS:
            return self._end(
                Cause(
                    code=CauseCode.SUBMIT_FAILURES,
                    message=f"{self._failures} calls of submit_result in a row failed",
                    detail=problem,
                ),
                self._kept,
            )
        return Rejected(text=problem, path=path, n=self._failures)

    # --- the whole ---

    def _whole(self, submission: Submission, parts: Sequence[Section]) -> Verdict:
        wholes = (
            [Whole(data=self._sections.whole(parts))]
            if parts
            else self._sections.wholes(submission.label, submission.data)
        )
        if self._checker is None:
            return self._take(submission, wholes[0].data, ("unchecked", *wholes[0].flags))
        misfits: list[tuple[Whole, Mismatch]] = []
        for whole in wholes:
            data, mismatch = self._fitting(whole.data, self._checker)
            if mismatch is None:
                return self._take(submission, data, whole.flags)
            misfits.append((replace(whole, data=data), mismatch))
        return self._reject_misfit(submission, *misfits[0])

    def _take(self, submission: Submission, data: Any, flags: tuple[str, ...]) -> Accepted:
        self._calm()
        return Accepted(result=_result(submission, data, flags))

    # --- its parts ---

    def _part(self, submission: Submission) -> Verdict:
        if submission.error:
            return self.refuse(
                "a part of a result has no `error`; leave `type` out to end with one", path="type"
            )
        given = submission.data if submission.data is not None else submission.summary
        if given is None:
            return self._reject_empty()
        self._kept = submission
        parts, mismatch = self._sections.read(submission.labels, given)
        if mismatch is None:
            self._calm()
        elif not parts:
            return self.refuse(f"The part was not kept. {mismatch.text}", path=mismatch.path)
        else:
            verdict = self._count_misfit(submission, mismatch)
            if verdict is not None:
                return verdict
        for part in parts:
            self._sections.keep(part)
        return Kept(sections=parts)

    # --- what goes wrong ---

    def _calm(self) -> None:
        """Something was accepted: only failures in a row count."""
        self._misfits = self._empties = self._failures = 0

    def _end(self, cause: Cause, kept: Submission | None) -> Ended:
        self._over = Ended(cause=cause, kept=kept)
        return self._over

    def _reject_empty(self) -> Rejected | Ended:
        self._empties += 1
        if self._empties > EMPTY_SUBMITS:
            return self._end(
                Cause(
                    code=CauseCode.EMPTY_SUBMITS,
                    message=f"submit_result was called {self._empties} times with nothing in it",
                ),
                self._kept,
            )
        return self.refuse(
            f"submit_result was called with nothing in it ({self._empties} of {EMPTY_SUBMITS}; "
            f"one more ends your session without a result). {_WAYS_OUT}"
        )

    def _reject_misfit(self, submission: Submission, whole: Whole, mismatch: Mismatch) -> Verdict:
        verdict = self._count_misfit(submission, mismatch)
        if verdict is not None:
            return verdict
        return self._take(submission, whole.data, ("overridden", *whole.flags))

    def _count_misfit(self, submission: Submission, mismatch: Mismatch) -> Rejected | Ended | None:
        """What follows from one more submit that does not fit; None if it is taken all the same."""
        self._misfits += 1
        if self._misfits <= REJECTED_SUBMITS:
            left = REJECTED_SUBMITS - self._misfits
            again = "the whole result"
            if self._sections.labels:
                again += f", or without `data` if the parts you handed in ({', '.join(self.labels)}) are all"
            return self.refuse(
                f"The result was not accepted: `data` does not fit the result schema.\n{mismatch.text}\n"
                f"Correct exactly this and call submit_result again with {again}. "
                f"({self._misfits} of {REJECTED_SUBMITS}; {left} more of these are sent back.)",
                path=mismatch.path,
            )
        if self.mode == "permissive":
            return None
        return self._end(
            Cause(
                code=CauseCode.RESULT_REJECTED,
                message=f"{self._misfits} submitted results did not fit the schema",
                detail=mismatch.text,
            ),
            submission,
        )

    def _fitting(self, data: Any, checker: SchemaChecker) -> tuple[Any, Mismatch | None]:
        """The data, or what its JSON text means if only that fits; and what is wrong with it."""
        mismatch = checker.mismatch(data)
        if mismatch is None or not isinstance(data, str):
            return data, mismatch
        meant = meant_by(data)
        return (data, mismatch) if meant is None else (meant, checker.mismatch(meant))


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
