"""`submit_result`: how a session hands in its result and ends."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final, cast

from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.records import Effect
from crew_plugin.session.contract import Accepted, Ended, Held, Kept, Submission, Verdict
from crew_plugin.session.scope import SessionScope
from crew_plugin.session.sections import MERGED, REPLACED

__all__ = ["submit_result_tool"]

_DESCRIPTION: Final = (
    "Hand in the result of your task and end your session. Call it once, when the work is done: it is the "
    "only thing that leaves your session. Give `summary`, and `data` where a result schema was given; or "
    "`error` alone, if the task cannot be done. If it comes back with a problem, correct that and call it "
    "again with the whole result. Only a large result may come in parts, with `type`."
)
_TEXTS: Final = {
    "summary": "The whole answer, for a reader who sees nothing else of your work: what you found or did, "
    "where (path:line), how you know, what is still open.",
    "error": "Only if the task cannot be done: what blocks it, what you tried, what would unblock it. Leave "
    "it out otherwise. Never together with data.",
}
_DATA: Final = "The result as JSON. Must fit the result schema of your task, if it has one."
_ARTIFACTS: Final = (
    'Longer texts by name, such as {"report.md": "..."}. Leave it out if the summary holds everything.'
)
_TYPE: Final = (
    'Leave it out to hand in the result and end. A list with the name of a part, such as ["findings"], keeps '
    "`data` as that part, and you go on: lists grow, with your last call too; anything else is replaced. A "
    "plain name ends your session with that part as the last; without `data` the text of your turn is the "
    "summary."
)
_TAKEN: Final = {
    "overridden": "although its data does not fit the schema",
    MERGED: "with the items of your earlier parts that it lacked",
    REPLACED: "in place of earlier parts that said something else",
}
"""How a result with these flags was taken."""
_AS_JSON: Final = 'Call it again with a complete JSON object, such as {"summary": "..."}.'
_MOST_LABELS: Final = 50
_LABEL_LENGTH: Final = 100
_UNSET_WORDS: Final = frozenset({"", "null", "none", "undefined"})


def submit_result_tool(scope: SessionScope) -> ToolSpec:
    """The tool for one session."""

    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        problem = _too_much(arguments, scope.rules.max_bytes) or _problem(arguments)
        if problem is not None:
            return _answer(await scope.gate.refuse(problem))
        labels, label = _labels(arguments.get("type"))
        submission = Submission(
            summary=_text(arguments, "summary"),
            data=_data(arguments, scope.schema is not None or bool(labels)),
            artifacts=_artifacts(arguments),
            error=_text(arguments, "error"),
            labels=labels,
            label=label,
        )
        return _answer(await scope.gate.submit(submission))

    async def unreadable(written: str) -> ToolOutput:
        problem = (
            "the arguments of submit_result were not a JSON object, so nothing was handed in. They began "
            f"with {written[:200]!r} and ended with {written[-100:]!r}. {_AS_JSON}"
        )
        return _answer(await scope.gate.refuse(problem, written))

    return ToolSpec(
        name="submit_result",
        description=_DESCRIPTION,
        parameters=_parameters(scope.data_kind if scope.schema is not None else "object"),
        execute=execute,
        effect=Effect.IDEMPOTENT,
        unreadable=unreadable,
    )


def _parameters(kind: str | None) -> dict[str, Any]:
    # What a provider may hold the model to says no more than the kind: a part of an object is of
    # another kind than the whole, and which rules a provider knows differs.
    data: dict[str, Any] = {"description": _DATA}
    if kind is not None and kind not in ("object", "array"):
        data["type"] = kind
    elif kind is not None:
        data["description"] += f" As a whole it is an {kind}."
    return {
        "type": "object",
        "properties": {
            "summary": {"type": "string", "description": _TEXTS["summary"]},
            "data": data,
            "artifacts": {
                "type": "object",
                "description": _ARTIFACTS,
                "additionalProperties": {"type": "string"},
            },
            "error": {"type": "string", "description": _TEXTS["error"]},
            "type": {"type": "array", "items": {"type": "string"}, "description": _TYPE},
        },
    }


def _answer(verdict: Verdict) -> ToolOutput:
    if isinstance(verdict, Accepted):
        flags = verdict.result.flags
        told = [text for flag, text in _TAKEN.items() if flag in flags]
        text = f"{', '.join(['Accepted', *told])}. Your session ends here."
        return ToolOutput(text=text, details={"flags": list(flags)}, ends_session=True)
    if isinstance(verdict, Kept):
        labels = [section.label for section in verdict.sections]
        text = f"Kept: {', '.join(labels)}. Go on; your session ends with a call without `type`."
        return ToolOutput(text=text, details={"kept": labels})
    if isinstance(verdict, Held):
        return ToolOutput(text=verdict.text, details={"held": True})
    if isinstance(verdict, Ended):
        return ToolOutput(
            text=f"Your session ends here without a result: {verdict.cause.message}.", ends_session=True
        )
    raise ToolError(verdict.text)


def _too_much(arguments: Mapping[str, Any], limit: int) -> str | None:
    """Why the arguments are more than one call may bring along."""
    size = 0
    pending: list[object] = [arguments]
    while pending and size <= limit:
        value = pending.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, Mapping):
            parts = cast("Mapping[object, object]", value)
            pending += [*parts.keys(), *parts.values()]
        elif isinstance(value, list):
            pending += cast("list[object]", value)
        else:
            size += 1
    if size <= limit:
        return None
    return (
        f"the arguments hold more than the {limit:,} characters that one call may bring along "
        "(`result.max_bytes`), so nothing was kept. Hand in less, or leave files where they are and name "
        "them."
    )


def _labels(given: object) -> tuple[tuple[str, ...], str | None]:
    """The names of parts that are to be kept, or the name in a call that ends the session."""
    if isinstance(given, str):
        if given.lstrip().startswith("["):  # a list that came as its JSON text
            try:
                return _labels(json.loads(given))
            except ValueError:
                pass
        return (), None if _unset(given) else given.strip()
    if not isinstance(given, list):
        return (), None
    names = [name.strip() for name in cast("list[object]", given) if isinstance(name, str) and name.strip()]
    return tuple(dict.fromkeys(names)), None


def _problem(arguments: Mapping[str, Any]) -> str | None:
    """What makes the arguments unusable; None if they can be judged."""
    for name in ("summary", "error"):
        value = arguments.get(name)
        if value is not None and not isinstance(value, str):
            return f"`{name}` must be text; got {_kind(value)}. Put structured values into `data`."
    kind = arguments.get("type")
    names = cast("list[object]", kind) if isinstance(kind, list) else [kind]
    if kind is not None and not all(isinstance(name, str) and len(name) <= _LABEL_LENGTH for name in names):
        return f"`type` must be a list of short names, or left out; got {_kind(arguments['type'])}."
    if len(names) > _MOST_LABELS:
        return f"`type` names {len(names)} parts; one call may hold {_MOST_LABELS}."
    if not _is_finite(arguments.get("data")):
        return "`data` holds NaN or Infinity, which JSON does not know. Write null, or the number as text."
    artifacts = arguments.get("artifacts")
    if _unset(artifacts):
        return None
    if not isinstance(artifacts, Mapping):
        return f'`artifacts` must map names to texts, such as {{"report.md": "..."}}; got {_kind(artifacts)}.'
    for name, body in cast("Mapping[str, object]", artifacts).items():
        if body is not None and not isinstance(body, str):
            return f"`artifacts[{name!r}]` must be text; got {_kind(body)}. JSON belongs into `data`."
    return None


def _is_finite(data: object) -> bool:
    """Whether every number in it is one. Walked without recursion: a model may nest as it likes."""
    left = [data]
    while left:
        value = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, Mapping):
            left += cast("Mapping[str, object]", value).values()
        elif isinstance(value, list):
            left += cast("list[object]", value)
    return True


def _text(arguments: Mapping[str, Any], name: str) -> str | None:
    value = arguments.get(name)
    return None if not isinstance(value, str) or _unset(value) else value


def _data(arguments: Mapping[str, Any], meant: bool) -> Any:
    """The data. What sloppy models put where they have none counts as none, unless it is `meant`:
    a schema or the name of a part says what it is."""
    value = arguments.get("data")
    hollow = value in ({}, []) or (isinstance(value, str) and _unset(value))
    return None if hollow and (not meant or _text(arguments, "error")) else value


def _artifacts(arguments: Mapping[str, Any]) -> dict[str, str]:
    value = arguments.get("artifacts")
    if not isinstance(value, Mapping):
        return {}
    parts = cast("Mapping[str, object]", value)
    return {str(name): body for name, body in parts.items() if isinstance(body, str) and body}


def _unset(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _UNSET_WORDS
    return value is None or value == {} or value == []


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return f"{value!r:.60}"
