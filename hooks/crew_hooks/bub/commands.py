"""Chat commands: `,team ...` and `,crew ...`, also while a turn is running."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bub.channels.message import ChannelMessage

from crew_hooks.bub.lifecycle import COMMAND_SESSION
from crew_plugin.errors import CrewError

if TYPE_CHECKING:
    from crew_plugin.host import ToolContext, ToolSpec

__all__ = [
    "COMMANDS",
    "THREAD",
    "Typed",
    "is_crew_command",
    "read_line",
    "run_command",
    "set_aside",
    "spoils",
]

COMMANDS: Final = ("team", "crew")
THREAD: Final = "_crew_thread"
"""Where a command that runs beside a turn keeps the thread it was typed in."""

_LIKE_THE_CLI: Final[Mapping[str, tuple[str, ...]]] = {
    "runs": ("list", "runs"),
    "agents": ("list", "agents"),
    "teams": ("list", "teams"),
    "workflows": ("list", "workflows"),
    "show": ("get",),
}
"""Names of the terminal's commands that the table of actions has under another name."""

_LATER: Final = frozenset({"run", "parallel", "resume"})
"""Actions that go on in the background when a person starts them: the chat stays free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """A command as it was typed: bare words, and `key=value` options."""

    words: tuple[str, ...]
    options: Mapping[str, str]


def is_crew_command(content: str, prefix: str) -> bool:
    """Whether this is one of our commands."""
    name, _ = _split(content, prefix)
    return name in COMMANDS


def spoils(content: str, prefix: str) -> tuple[str, str] | None:
    """Name and rest of one of our commands that Bub's own reading would refuse: a goal with an
    apostrophe, or with an equals sign before its end. None for every other message."""
    name, rest = _split(content, prefix)
    if name not in COMMANDS:
        return None
    try:
        tokens = shlex.split(rest)
    except ValueError:
        return name, rest
    options = ["=" in token for token in tokens]
    return None if options == sorted(options) else (name, rest)


def read_line(line: str, known: frozenset[str]) -> Typed:
    """Words and options of a line. Only `known` names are options; other text is text."""
    try:
        tokens = shlex.split(line)
    except ValueError:
        tokens = line.split()
    words: list[str] = []
    options: dict[str, str] = {}
    for token in tokens:
        key, equals, value = token.partition("=")
        if equals and key in known:
            options[key] = value
        else:
            words.append(token)
    return Typed(words=tuple(words), options=options)


async def run_command(name: str, typed: Typed, team: "ToolSpec", context: "ToolContext") -> str:
    """What the person gets to read. An error is an answer too: it says what to type instead."""
    text = await _answer(name, typed, team, context)
    # Where channels run, they render Markdown, which would run the lines of a table together.
    return _fenced(text) if context.can_deliver_later else text


async def _answer(name: str, typed: Typed, team: "ToolSpec", context: "ToolContext") -> str:
    from crew_plugin.host import ToolError
    from crew_tools.team.actions import from_words

    words = _as_actions(name, typed)
    if list(words) == ["help"]:
        return _help(name)
    try:
        arguments: dict[str, Any] = from_words(words, typed.options)
        if arguments["action"] in _LATER and context.can_deliver_later:
            arguments.setdefault("async", True)
        return (await team.execute(arguments, context)).text
    except (CrewError, ToolError) as error:
        return f"{name}: {error}"


def set_aside(message: ChannelMessage, session_id: str) -> None:
    """Make a command that comes during a turn run beside it, in a session of its own.

    In the busy session it would do harm: at its end Bub takes what the user has typed meanwhile
    away from the turn that runs, and a tape that two turns write at once may lose its start.
    """
    thread = message.context.get("thread_id")
    message.session_id = COMMAND_SESSION + session_id
    message.context = {**message.context, "thread_id": message.session_id, THREAD: thread}
    # The channel's sign of being busy belongs to the turn that goes on.
    message.lifespan = None


def _help(name: str) -> str:
    from crew_tools.team.actions import ACTIONS

    typed = [(action.chat.replace(",team", f",{name}", 1), action.summary) for action in ACTIONS.values()]
    width = max(len(chat) for chat, _ in typed)
    lines = [f"{chat:<{width}}  {summary}" for chat, summary in typed]
    more = (
        "RUN_ID may be left out for the newest run. Options follow as name=value, as in width=4.",
        f"What one action takes: ,{name} help ACTION",
    )
    return "\n".join([*lines, "", *more])


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _as_actions(name: str, typed: Typed) -> Sequence[str]:
    if not typed.words:
        return ("help",)
    first, *rest = typed.words
    if first == "help" or name != "crew":
        return typed.words
    return (*_LIKE_THE_CLI.get(first, (first,)), *rest)


def _split(content: str, prefix: str) -> tuple[str, str]:
    text = content.strip()
    if not text.startswith(prefix):
        return "", ""
    name, _, rest = text[len(prefix) :].strip().partition(" ")
    return name, rest.strip()
