"""`irc`: how the sessions of a run talk to each other."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from crew_plugin.errors import CallerError, InvalidValue
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.mail import Receipt, ReceiptOutcome
from crew_plugin.models.records import Effect
from crew_plugin.session.mail import EVERYBODY, PARENT
from crew_plugin.session.prompt import Peer, letter
from crew_plugin.session.scope import Mail, SessionScope
from crew_plugin.session.waits import Waited

__all__ = ["irc_tool"]

_DESCRIPTION: Final = (
    "Talk to the other tasks of this run. `send` gives `message` to the task named in `to`; `list` names the "
    "tasks and where they stand; `wait` waits for a message of the tasks in `to`. A running task sees the "
    "message at its next step, one that has not started finds it in its first prompt, one that has ended is "
    "woken to read it. Answers arrive by themselves; with `await_reply` the call waits for the first one, "
    "which is worth it only if you cannot go on without it."
)
_OPS: Final = ("send", "list", "wait")
_PARAMETERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "op": {"type": "string", "enum": list(_OPS), "description": "What to do."},
        "to": {
            "type": "string",
            "description": "The key of a task, several with commas between them, or, for send, `all` or "
            "`parent` (whoever started the run).",
        },
        "message": {
            "type": "string",
            "description": "For send: the fact the other needs, complete in itself, in a few sentences.",
        },
        "await_reply": {
            "type": "boolean",
            "description": "For send: wait for the answer. Ends early when the other ends or another message "
            "comes for you.",
        },
        "seconds": {"type": "number", "description": "How long to wait at most."},
    },
    "required": ["op"],
}
_UNSET_WORDS: Final = frozenset({"", "null", "none", "undefined"})
_TRUE_WORDS: Final = frozenset({"true", "yes", "1", "on"})
_SHOWN: Final = 60
"""Tasks that a list names: those that can be talked to come first."""
_ANSWERING: Final = frozenset({ReceiptOutcome.INJECTED, ReceiptOutcome.WOKEN})
"""With these somebody is there who may answer."""


def irc_tool(scope: SessionScope) -> ToolSpec:
    """The tool for one session."""

    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        try:
            op = _op(arguments)
            if op == "list":
                return _listing(await scope.mail.peers(), scope.context.task.key)
            if op == "wait":
                return await _wait(scope.mail, arguments)
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
    to = await _recipients(mail, arguments)
    message = arguments.get("message")
    if not isinstance(message, str) or _unset(message):
        raise ToolError("`message` is needed: the text to send")
    if not _flag(arguments.get("await_reply")):
        receipts = await mail.send(to, message)
        return ToolOutput(text=_lines(receipts), details=_facts(receipts))
    seconds = _seconds(mail, arguments)
    receipts = await mail.send(to, message, reply_within=seconds)
    there = tuple(
        receipt.to for receipt in receipts if receipt.outcome in _ANSWERING and receipt.to != PARENT
    )
    if not there:
        return ToolOutput(
            text=f"{_lines(receipts)}\nNot waiting: nobody is there now who could answer.",
            details=_facts(receipts),
        )
    waited = await mail.await_reply(there, seconds)
    return ToolOutput(text=f"{_lines(receipts)}\n{_waited(waited)}", details=_facts(receipts))


async def _wait(mail: Mail, arguments: Mapping[str, Any]) -> ToolOutput:
    to = await _recipients(mail, arguments)
    if EVERYBODY in to or PARENT in to:
        raise ToolError("`wait` needs the keys of tasks in `to`")
    return ToolOutput(text=_waited(await mail.await_reply(to, _seconds(mail, arguments))))


async def _recipients(mail: Mail, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    to = tuple(_names(arguments.get("to")))
    if not to:
        peers = await mail.peers()
        keys = ", ".join(peer.key for peer in peers[:_SHOWN]) or "there are none"
        raise ToolError(f"`to` is needed: the key of a task, or `{EVERYBODY}`. Tasks: {keys}")
    return to


def _seconds(mail: Mail, arguments: Mapping[str, Any]) -> float:
    value = arguments.get("seconds")
    if _unset(value):
        return mail.policy.reply_seconds
    try:
        seconds = float(str(value))
    except ValueError:
        raise InvalidValue("seconds", value, "a number") from None
    if not seconds > 0:
        raise InvalidValue("seconds", value, "a number above 0")
    return min(seconds, mail.policy.reply_max_seconds)


def _waited(waited: Waited) -> str:
    if waited.answers:
        return "\n\n".join(letter(message) for message in waited.answers)
    return f"No answer: {waited.reason}."


def _facts(receipts: tuple[Receipt, ...]) -> Mapping[str, Any]:
    return {
        "receipts": [
            {"to": receipt.to, "outcome": receipt.outcome, "reason": receipt.reason} for receipt in receipts
        ]
    }


def _lines(receipts: tuple[Receipt, ...]) -> str:
    return "\n".join(_line(receipt) for receipt in receipts)


def _line(receipt: Receipt) -> str:
    match receipt.outcome:
        case ReceiptOutcome.INJECTED:
            return f"{receipt.to}: will see it at its next step."
        case ReceiptOutcome.QUEUED:
            return f"{receipt.to}: queued; {receipt.reason or 'it will find it when it starts'}."
        case ReceiptOutcome.WOKEN:
            return f"{receipt.to}: had ended and is woken to read it."
        case ReceiptOutcome.MISSED:
            return f"{receipt.to}: missed it; {receipt.reason}."
        case ReceiptOutcome.FAILED:
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
            yield name.lower() if name.lower() in (EVERYBODY, PARENT) else name


def _flag(value: object) -> bool:
    return value is True or (isinstance(value, str | int) and str(value).strip().lower() in _TRUE_WORDS)


def _unset(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in _UNSET_WORDS)
