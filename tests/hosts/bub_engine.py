"""What the tests of the Bub engine share beside the fixtures."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bub.framework import BubFramework

from crew_hooks.bub.engine import BubEngine
from crew_plugin.child.engine import ChildEngine
from crew_plugin.engine.provider_gate import ProviderGates
from crew_plugin.host import Session, SessionEvent, ToolContext, ToolOutput, ToolSpec, TurnEnded
from crew_plugin.testing.conversation import Conversation, Reply
from crew_plugin.testing.model_server import ScriptedModelServer

RUNTIME = "CREW_RUNTIME__MODE"
"""The variable that says where the sessions of a run are held."""


class Play:
    """Answers each request with the next reply; the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)

    def __call__(self, conversation: Conversation) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@dataclass
class Host:
    """What a test of the engine works with."""

    framework: BubFramework
    engine: BubEngine | ChildEngine
    home: BubEngine
    """The engine of this process, which may be behind it."""
    model: ScriptedModelServer
    folder: Path
    gates: ProviderGates


def tool(
    name: str, answer: str | Callable[[Mapping[str, Any]], str] = "done", *, ends: bool = False
) -> ToolSpec:
    """A tool that answers with a text."""

    async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        text = answer if isinstance(answer, str) else answer(arguments)
        return ToolOutput(text=text, ends_session=ends)

    parameters = {"type": "object", "properties": {"text": {"type": "string"}}}
    return ToolSpec(name=name, description=f"Does {name}.", parameters=parameters, execute=execute)


async def until[E: SessionEvent](session: Session, wanted: type[E]) -> tuple[list[SessionEvent], E]:
    """The events up to the first of a kind, and that one."""
    seen: list[SessionEvent] = []
    async with asyncio.timeout(10):
        async for event in session.events():
            seen.append(event)
            if isinstance(event, wanted):
                return seen, event
    raise AssertionError(f"the session ended without {wanted.__name__}: {seen}")


async def turn(session: Session, text: str) -> list[SessionEvent]:
    """Prompt and wait for the end of the turn; its events."""
    await session.prompt(text)
    seen, _ = await until(session, TurnEnded)
    return seen


async def rest(session: Session) -> list[SessionEvent]:
    """The events up to the session's end."""
    async with asyncio.timeout(10):
        return [event async for event in session.events()]
