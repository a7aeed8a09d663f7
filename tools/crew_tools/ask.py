"""`ask`: a session puts a question to whoever started its run, and waits for the answer."""

from collections.abc import Mapping
from typing import Any, Final, cast

from crew_plugin.errors import CallerError, InvalidValue
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.questions import told_to_session
from crew_plugin.models.records import Effect
from crew_plugin.session.scope import SessionScope

__all__ = ["ask_tool"]

_DESCRIPTION: Final = (
    "Ask whoever started this run, an agent or a person, and wait for the answer. Only for a decision that "
    "is theirs and without which you cannot go on; what you can find out or sensibly assume you do not ask. "
    "One question at a time, complete in itself: they have not seen what you have seen. Without an answer in "
    "time the call says so and you go on."
)
_PARAMETERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "What has to be decided, and what hangs on it."},
        "choices": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The only possible answers, where there are few.",
        },
        "default": {"type": "string", "description": "What you go on with if nobody answers."},
        "deadline": {"type": "number", "description": "Seconds to wait at most."},
    },
    "required": ["question"],
}
_UNSET_WORDS: Final = frozenset({"", "null", "none", "undefined"})


def ask_tool(scope: SessionScope) -> ToolSpec:
    """The tool for one session."""

    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        try:
            question = await scope.asks.ask(
                _question(arguments),
                choices=_choices(arguments.get("choices")),
                seconds=_seconds(arguments.get("deadline")),
                default=_text(arguments.get("default")),
            )
        except CallerError as error:
            raise ToolError(str(error)) from error
        return ToolOutput(
            text=told_to_session(question), details={"question_id": question.id, "state": str(question.state)}
        )

    return ToolSpec(
        name="ask",
        description=_DESCRIPTION,
        parameters=_PARAMETERS,
        execute=execute,
        effect=Effect.IDEMPOTENT,
    )


def _question(arguments: Mapping[str, Any]) -> str:
    text = _text(arguments.get("question"))
    if text is None:
        raise ToolError("`question` is needed: what has to be decided")
    return text


def _text(value: object) -> str | None:
    if value is None or str(value).strip().lower() in _UNSET_WORDS:
        return None
    return str(value).strip()


def _choices(value: object) -> tuple[str, ...]:
    """A list, or a text with commas or line ends between the choices."""
    if isinstance(value, str):
        parts: list[object] = list(value.strip().strip("[]").replace("\n", ",").split(","))
    else:
        parts = cast("list[object]", value) if isinstance(value, list) else []
    cleaned = (text.strip("\"'`").strip() for part in parts if (text := _text(part)) is not None)
    return tuple(dict.fromkeys(choice for choice in cleaned if choice))


def _seconds(value: object) -> float | None:
    if _text(value) is None:
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        raise InvalidValue("deadline", value, "a number of seconds") from None
    if not seconds > 0:
        raise InvalidValue("deadline", value, "a number of seconds above 0")
    return seconds
