"""`irc`: how the sessions of a run talk to each other."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from crew_plugin.errors import CallerError, InvalidValue
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.records import Effect, Receipt
from crew_plugin.session.mail import EVERYBODY
from crew_plugin.session.prompt import Peer
from crew_plugin.session.scope import Mail, SessionScope

__all__ = ["irc_tool"]

_DESCRIPTION: Final = (
    "Talk to the other tasks of this run. `send` gives `message` to the task named in `to`; `list` names the "
    "tasks and where they stand. A running task sees the message at its next step, one that has not started "
    "finds it in its first prompt. Nothing waits for an answer; answers arrive by themselves."
)
_OPS: Final = ("send", "list")
_PARAMETERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "op": {"type": "string", "enum": list(_OPS), "description": "What to do."},
        "to": {
            "type": "string",
            "description": "For send: the key of a task, several with commas between them, or `all`.",
        },
        "message": {
            "type": "string",
            "description": "For send: the fact the other needs, complete in itself, in a few sentences.",
        },
    },
    "required": ["op"],
}
_UNSET_WORDS: Final = frozenset({"", "null", "none", "undefined"})
_SHOWN: Final = 60
"""Tasks that a list names: those that can be talked to come first."""


def irc_tool(scope: SessionScope) -> ToolSpec:
    """The tool for one session."""

    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        try:
            if _op(arguments) == "list":
                return _listing(await scope.mail.peers(), scope.context.task.key)
            return await _send(scope.mail, arguments)
        except CallerError as error:
            raise ToolError(str(error)) from error

    return ToolSpec(
        name="irc",
        description=_DESCRIPTION,
        parameters=_PARAMETERS,
        execute=execute,
        effect=Effect.IDEMPOTENT,
    )


async def _send(mail: Mail, arguments: Mapping[str, Any]) -> ToolOutput:
    to = tuple(_names(arguments.get("to")))
    if not to:
        peers = await mail.peers()
        keys = ", ".join(peer.key for peer in peers[:_SHOWN]) or "there are none"
        raise ToolError(f"`to` is needed: the key of a task, or `{EVERYBODY}`. Tasks: {keys}")
    message = arguments.get("message")
    if not isinstance(message, str) or _unset(message):
        raise ToolError("`message` is needed: the text to send")
    receipts = await mail.send(to, message)
    return ToolOutput(
        text="\n".join(_line(receipt) for receipt in receipts),
        details={
            "receipts": [
                {"to": receipt.to, "outcome": receipt.outcome, "reason": receipt.reason}
                for receipt in receipts
            ]
        },
    )


def _line(receipt: Receipt) -> str:
    if receipt.outcome == "injected":
        return f"{receipt.to}: will see it at its next step."
    if receipt.outcome == "queued":
        return f"{receipt.to}: queued; it will find it when it starts."
    return f"{receipt.to}: not delivered; {receipt.reason}."


def _listing(peers: tuple[Peer, ...], me: str) -> ToolOutput:
    shown = peers[:_SHOWN]
    lines = [f"{peer.key} ({peer.role}): {peer.state}. {peer.title}".rstrip() for peer in shown]
    if len(peers) > len(shown):
        lines.append(f"and {len(peers) - len(shown)} more tasks; `send` takes the key of any of them")
    text = "\n".join(lines) if lines else "No other task belongs to this run."
    return ToolOutput(
        text=f"You are {me}.\n{text}",
        details={"peers": [{"key": peer.key, "role": peer.role, "state": peer.state} for peer in shown]},
    )


def _op(arguments: Mapping[str, Any]) -> str:
    value = arguments.get("op")
    if _unset(value):
        # A message is a wish clear enough.
        return "list" if _unset(arguments.get("message")) else "send"
    op = str(value).strip().lower()
    if op not in _OPS:
        raise InvalidValue("op", value, _OPS)
    return op


def _names(value: object) -> Iterator[str]:
    """Keys of tasks, however they were written: a text with commas, a list, a list as text."""
    if isinstance(value, str):
        parts: list[object] = list(value.strip().strip("[]").split(","))
    else:
        parts = cast("list[object]", value) if isinstance(value, list) else []
    for part in parts:
        name = str(part).strip().strip("\"'`").removeprefix("@")
        if not _unset(name):
            yield EVERYBODY if name.lower() == EVERYBODY else name


def _unset(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in _UNSET_WORDS)
