"""`submit_result`: how a session hands in its result and ends."""

from collections.abc import Mapping
from typing import Any, Final, cast

from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.records import Effect
from crew_plugin.session.contract import Accepted, Ended, Submission, Verdict
from crew_plugin.session.scope import SessionScope

__all__ = ["submit_result_tool"]

_DESCRIPTION: Final = (
    "Hand in the result of your task and end your session. Call it once, when the work is done: it is the "
    "only thing that leaves your session. Give `summary`, and `data` where a result schema was given; or "
    "`error` alone, if the task cannot be done. If it comes back with a problem, correct that and call it "
    "again with the whole result."
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
_UNSET_WORDS: Final = frozenset({"", "null", "none", "undefined"})


def submit_result_tool(scope: SessionScope) -> ToolSpec:
    """The tool for one session."""

    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        problem = _problem(arguments)
        if problem is not None:
            return _answer(await scope.gate.refuse(problem))
        submission = Submission(
            summary=_text(arguments, "summary"),
            data=_data(arguments, scope.schema),
            artifacts=_artifacts(arguments),
            error=_text(arguments, "error"),
        )
        return _answer(await scope.gate.submit(submission))

    return ToolSpec(
        name="submit_result",
        description=_DESCRIPTION,
        parameters=_parameters(scope.schema),
        execute=execute,
        effect=Effect.IDEMPOTENT,
    )


def _parameters(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    kind = schema.get("type", "object") if schema is not None else "object"
    data: dict[str, Any] = {"description": _DATA}
    if isinstance(kind, str):
        data["type"] = kind
    if kind == "array":
        data["items"] = {}
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
        },
    }


def _answer(verdict: Verdict) -> ToolOutput:
    if isinstance(verdict, Accepted):
        flags = verdict.result.flags
        text = "Accepted. Your session ends here."
        if "overridden" in flags:
            text = "Accepted, although its data does not fit the schema. Your session ends here."
        return ToolOutput(text=text, details={"flags": list(flags)}, ends_session=True)
    if isinstance(verdict, Ended):
        return ToolOutput(
            text=f"Your session ends here without a result: {verdict.cause.message}.", ends_session=True
        )
    raise ToolError(verdict.text)


def _problem(arguments: Mapping[str, Any]) -> str | None:
    """What makes the arguments unusable; None if they can be judged."""
    for name in ("summary", "error"):
        value = arguments.get(name)
        if value is not None and not isinstance(value, str):
            return f"`{name}` must be text; got {_kind(value)}. Put structured values into `data`."
    artifacts = arguments.get("artifacts")
    if _unset(artifacts):
        return None
    if not isinstance(artifacts, Mapping):
        return f'`artifacts` must map names to texts, such as {{"report.md": "..."}}; got {_kind(artifacts)}.'
    for name, body in cast("Mapping[str, object]", artifacts).items():
        if body is not None and not isinstance(body, str):
            return f"`artifacts[{name!r}]` must be text; got {_kind(body)}. JSON belongs into `data`."
    return None


def _text(arguments: Mapping[str, Any], name: str) -> str | None:
    value = arguments.get(name)
    return None if not isinstance(value, str) or _unset(value) else value


def _data(arguments: Mapping[str, Any], schema: Mapping[str, Any] | None) -> Any:
    """The data. What sloppy models put where they have none counts as none, unless a schema is
    there to say what it means."""
    value = arguments.get("data")
    hollow = value in ({}, []) or (isinstance(value, str) and _unset(value))
    return None if hollow and (schema is None or _text(arguments, "error")) else value


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
