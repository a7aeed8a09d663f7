"""Chat commands: `,team ...` and `,crew ...`, also while a turn is running."""

import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

_LISTED: Final[Mapping[str, str]] = {
    "runs": "run",
    "agents": "agent",
    "teams": "team",
    "workflows": "workflow",
    "skills": "skill",
}
"""Commands of the terminal that list a kind of thing, or show one of them."""

_TERMINAL_ONLY: Final = frozenset({"init", "doctor", "demo"})
_LATER: Final = frozenset({"run", "parallel", "resume"})
"""Actions that go on in the background when a person starts them: the chat stays free."""

_CALL: Final = re.compile(r'\baction=("?)(\w+)\1(?!\w)((?:, \w+=(?:"[^"\n]*"|\w+\b))*)(?!, \w+=)')
_ARGUMENT: Final = re.compile(r'(\w+)=("[^"\n]*"|\w+)')
"""How the tools' answers name calls."""
_QUOTING: Final = re.compile(r"[\"'\\]")
_TOKEN: Final = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"'\\])+""", re.DOTALL)
_BLANK: Final = re.compile(r"\S+")
_OPTION: Final = re.compile(r"([A-Za-z_]\w*)=")
_HELP_WIDTH: Final = 74
"""Fits a terminal of 80 columns with the frame that Bub puts around."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """A command as it was typed: bare words, and `key=value` options."""

    words: tuple[str, ...]
    options: Mapping[str, str]
    texts: tuple[str, ...] = ()
    """Each word as it stands in the line, with its quotes and the space after it."""


def is_crew_command(content: str, prefix: str) -> bool:
    """Whether this is one of our commands."""
    name, _ = _split(content, prefix)
    return name in COMMANDS


def spoils(content: str, prefix: str) -> tuple[str, str] | None:
    """Name and rest of one of our commands that Bub's own reading would refuse or change: a goal with
    quotes, an apostrophe, line ends, or an equals sign before its end. None for every other message."""
    name, rest = _split(content, prefix)
    if name not in COMMANDS:
        return None
    plain = " ".join(rest.split())
    options = ["=" in token for token in plain.split()]
    untouched = plain == rest and not _QUOTING.search(rest)
    return None if untouched and options == sorted(options) else (name, rest)


def read_line(line: str, known: frozenset[str]) -> Typed:
    """Words and options of a line. Where options stand last, all that look like one are; else only
    `known` ones are, and other text is text."""
    tokens = list(_TOKEN.finditer(line))
    try:
        cooked = shlex.split(line)
    except ValueError:  # a quotation mark without its other half is an apostrophe
        tokens = list(_BLANK.finditer(line))
        cooked = [token[0] for token in tokens]
    keys = [match[1] if (match := _OPTION.match(token[0])) else "" for token in tokens]
    looks = [bool(key) for key in keys]
    trailing = looks == sorted(looks)
    words: list[str] = []
    texts: list[str] = []
    options: dict[str, str] = {}
    for at, (token, key) in enumerate(zip(tokens, keys, strict=True)):
        if key and (trailing or key in known):
            options[key] = cooked[at].partition("=")[2]
            continue
        words.append(cooked[at])
        goes_on = at + 1 < len(tokens) and not (looks[at + 1] and (trailing or keys[at + 1] in known))
        texts.append(line[token.start() : tokens[at + 1].start()] if goes_on else token[0] + " ")
    return Typed(words=tuple(words), options=options, texts=tuple(texts))


async def run_command(name: str, typed: Typed, team: "ToolSpec", context: "ToolContext") -> str:
    """What the person gets to read. An error is an answer too: it says what to type instead."""
    text = await _answer(name, typed, team, context)
    # Where channels run, they render Markdown, which would run the lines of a table together.
    return _fenced(text) if context.can_deliver_later else text


async def _answer(name: str, typed: Typed, team: "ToolSpec", context: "ToolContext") -> str:
    from crew_plugin.host import ToolError
    from crew_tools.team.actions import from_words

    typed = _as_actions(name, typed)
    words = typed.words
    if list(words) == ["help"]:
        return _help(name)
    try:
        arguments: dict[str, Any] = from_words(words, typed.options, typed.texts)
        await _check_options(name, arguments["action"], typed.options)
        if arguments["action"] in _LATER and context.can_deliver_later:
            arguments.setdefault("async", True)
        output = await team.execute(arguments, context)
    except (CrewError, ToolError) as error:
        return _as_typed(f"{name}: {error}{_hint(name, words, error)}", name)
    return _as_typed(output.text, name)


async def _check_options(name: str, action: str, options: Mapping[str, str]) -> None:
    """Raise where nothing knows an option: what was typed would be lost in silence."""
    import difflib

    import anyio.to_thread

    from crew_plugin.errors import CallerError
    from crew_tools.team.dispatch import all_keys

    known = await anyio.to_thread.run_sync(all_keys)
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"did you mean {near[0]}=? " if near else ""
            raise CallerError(
                f"{action} has no option {key!r}; {meant},{name} help {action} lists them; text with = in it "
                "goes in quotes"
            )


def _hint(name: str, words: Sequence[str], error: Exception) -> str:
    """What else the person may have meant."""
    from crew_plugin.errors import InvalidValue, UnknownName
    from crew_tools.team.actions import nearest_action

    cause = error if isinstance(error, CrewError) else error.__cause__
    if isinstance(cause, UnknownName) and cause.kind == "team":
        one = f',{name} run "GOAL" agent=NAME'
        return f". A goal for the default team goes in quotes; for one agent alone: {one}"
    if isinstance(cause, InvalidValue) and cause.parameter == "action" and words:
        if words[0] in _TERMINAL_ONLY:
            return f". In a terminal: crew {words[0]}"
        near = nearest_action(words[-1] if words[0] == "help" else words[0])
        return f". Did you mean ,{name} {near}?" if near else f". All of them: ,{name} help"
    return ""


def _as_typed(text: str, name: str) -> str:
    """The text with calls that a model would make put as a person types them, but for lines that
    hold words of a worker."""

    def line_typed(line: str) -> str:
        return line if line.startswith("| ") else _CALL.sub(lambda call: _typed_call(call, name), line)

    return "\n".join(line_typed(line) for line in text.split("\n"))


def _typed_call(call: "re.Match[str]", name: str) -> str:
    """`action="get", run_id="last"` as `,team get last`."""
    from crew_tools.team.actions import ACTIONS

    action = ACTIONS.get(call[2])
    if action is None:
        return call[0]
    given = dict(_ARGUMENT.findall(call[3]))
    bare: list[str] = []
    for word in action.words:
        if word not in given:
            break
        bare.append(given.pop(word).strip('"'))
    return " ".join([f",{name}", action.name, *bare, *(f"{key}={value}" for key, value in given.items())])


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

    lines: list[str] = []
    for action in ACTIONS.values():
        lines.append(action.chat.replace(",team", f",{name}", 1))
        lines += textwrap.wrap(action.summary, _HELP_WIDTH, initial_indent="    ", subsequent_indent="    ")
    more = (
        "RUN_ID is the id that a run's start shows, or `last` for the newest run; it may be left out",
        "where a command only looks. Options follow as name=value, as in width=4.",
        f"What one action takes: ,{name} help ACTION",
    )
    return "\n".join([*lines, "", *textwrap.wrap(" ".join(more[:2]), _HELP_WIDTH), more[2]])


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _as_actions(name: str, typed: Typed) -> Typed:
    """The command by the table of actions: the terminal's names count for `,crew`."""
    if not typed.words:
        return replace(typed, words=("help",))
    first, *rest = typed.words
    if name != "crew":
        return typed
    kind = _LISTED.get(first)
    if kind is not None and rest and kind != "run":
        shown = {"resource": kind, "name": " ".join(rest)}
        return Typed(words=("get",), options={**typed.options, **shown})
    if kind is not None:
        return Typed(words=("list", kind), options=typed.options)
    if first == "show":
        return replace(typed, words=("get" if len(rest) > 1 else "summary", *rest))
    return typed


def _split(content: str, prefix: str) -> tuple[str, str]:
    text = content.strip()
    if not text.startswith(prefix):
        return "", ""
    name, _, rest = text[len(prefix) :].strip().partition(" ")
    return name, rest.strip()
