"""What is private in the side of Bub that its user sees: the tape, the prefix, the terminal."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

import textwrap
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from crew_hooks.bub.compat import BUILTIN, OFFERED

if TYPE_CHECKING:
    from bub.builtin.agent import Agent
    from bub.channels.admission import TurnSnapshot
    from bub.channels.cli import CliChannel
    from bub.channels.message import ChannelMessage
    from bub.framework import BubFramework

__all__ = [
    "command_prefix",
    "cut_history",
    "echo",
    "is_overflow",
    "offer_skills",
    "print_lines",
    "register_tool",
    "user_messages",
    "wrap_command",
]

_LEAST_ROOM: Final = 20
_FOLD: Final = " " * 6
"""Before what does not fit into a line of progress."""


def command_prefix(framework: "BubFramework") -> str:
    """What a chat command begins with."""
    return _agent(framework).command_prefix


async def user_messages(framework: "BubFramework", session_id: str) -> list[str]:
    """What was said to a session by its user and channels, as its saved tape has it."""
    tape = _agent(framework).tape.session_tape(session_id, framework.workspace)
    entries = await tape.store.fetch_all(tape.query().kinds("message"))
    return [_text(entry.payload.get("content")) for entry in entries if entry.payload.get("role") == "user"]


async def print_lines(framework: "BubFramework", channel: str, lines: Sequence[str]) -> bool:
    """Print lines into the chat of a channel; False if it is not one that can."""
    from rich.text import Text

    terminal = _terminal(framework, channel)
    if terminal is None:
        return False
    console = terminal._renderer.console
    # `Text` is printed as it is: brackets in it are no markup.
    room = max(_LEAST_ROOM, console.width - 1)
    folded = (
        part
        for line in lines
        for part in textwrap.wrap(f"  · {line}", room, subsequent_indent=_FOLD, break_on_hyphens=False)
    )
    text = Text("\n".join(folded), style="bright_black")
    await terminal._presenter.write(
        lambda: console.print(text, no_wrap=True, overflow="ellipsis", highlight=False)
    )
    return True


def chat_session(framework: "BubFramework") -> str | None:
    """The session of the chat in this process's terminal, which is known before anything is typed; None
    where there is none."""
    terminal = _terminal(framework, "cli")
    return None if terminal is None else str(terminal._message_template["session_id"])


async def echo(
    framework: "BubFramework", session_id: str, message: "ChannelMessage", turn: "TurnSnapshot"
) -> None:
    """Let the message's channel show what was typed, as it does for one that starts a turn."""
    router = framework._channel_router
    if router is not None:
        quiet = replace(turn, is_running=False)
        await router.admit_channel_message(session_id=session_id, message=message, turn=quiet)


def register_tool(
    *,
    name: str,
    description: str,
    parameters: dict[str, Any],
    handler: Callable[..., Awaitable[str]],
    command_only: bool = False,
) -> None:
    """Offer a tool to Bub's user and, unless `command_only`, to its model. `handler` gets
    `context` and the arguments; its calls are shown in the chat."""
    from bub.tools import REGISTRY, Tool, _add_logging

    OFFERED.add(name)
    REGISTRY[name] = _add_logging(
        Tool(
            name=name,
            handler=handler,
            description=description,
            parameters=parameters,
            context=True,
            exposure="command" if command_only else "direct",
        )
    )


def wrap_command(
    name: str, instead: Callable[[Callable[..., Any], tuple[str, ...], dict[str, Any], Any], Awaitable[Any]]
) -> None:
    """Let `instead` decide when a person types this command of Bub's. It gets Bub's own way of
    doing it, words, options and context; a text that it returns is shown as it is. What the model
    calls goes straight on: for that there is a hook."""
    from bub.tools import REGISTRY

    known = REGISTRY[name]
    inner = getattr(known.handler, "_crew_inner", known)

    async def handle(*words: str, context: Any, **options: Any) -> Any:
        if context.run_id == "run_command":
            return await instead(inner.handler, words, options, context)
        made = inner.run(*words, context=context, **options)
        return await made if isinstance(made, Awaitable) else made

    # A second plugin in the same process replaces the first one's wrapper, it does not wrap it.
    handle._crew_inner = inner  # type: ignore[attr-defined]

    def render(made: Any) -> Any:
        return made if isinstance(made, str) else inner.render(made)

    REGISTRY[name] = replace(inner, handler=handle, renderer=render)


async def cut_history(
    framework: "BubFramework", session_id: str, tool: str, arguments: Mapping[str, Any]
) -> bool:
    """Hand off, or reset, the saved tape of a session as Bub's own tools would. Whether it stands
    on the tape afterwards."""
    tape = _agent(framework).tape.session_tape(session_id, framework.workspace)
    if tool == "tape.reset":
        await tape.reset(archive=str(arguments.get("archive", False)).lower() in ("true", "1", "yes"))
        wanted = "session/start"
    else:
        wanted = str(arguments.get("name") or "handoff")
        await tape.handoff(name=wanted, state={"summary": str(arguments.get("summary") or "")})
    anchors = await tape.anchors(1)
    return [anchor.name for anchor in anchors] == [wanted]


def is_overflow(error: Exception) -> bool:
    """Whether Bub answers this error of a model call with a handoff of its own."""
    from bub.builtin.model_runner import is_context_length_error

    return is_context_length_error(str(error))


def offer_skills(folders: Iterable[str]) -> None:
    """Let Bub find the skills in these folders. Bub reads them from a namespace package."""
    import importlib

    path: Any = importlib.import_module("skills").__path__
    for folder in folders:
        if folder not in path:
            path.append(folder)


def _agent(framework: "BubFramework") -> "Agent":
    builtin: Any = framework.plugin_manager.get_plugin(BUILTIN)
    agent: Agent = builtin._get_agent()
    return agent


def _terminal(framework: "BubFramework", channel: str) -> "CliChannel | None":
    from bub.channels.cli import CliChannel

    router: Any = framework._channel_router
    found = router.get_channel(channel) if router is not None else None
    return found if isinstance(found, CliChannel) else None


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return str(content or "")
