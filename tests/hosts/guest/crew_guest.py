"""A plugin of Bub and of the crew, as somebody else would write and publish it."""

import json
import os
from typing import Any

from bub.hooks import hookimpl
from bub.hooks.interception import ToolCall, ToolCallDecision
from bub.tools import ToolContext, tool

from crew_plugin import hookspecs as crew

__all__ = ["Gate", "plugin"]


def note(what: str, **facts: Any) -> None:
    """Keep a line of what was seen."""
    with open(os.environ["GUEST_LOG"], "a", encoding="utf-8") as log:
        log.write(json.dumps({"what": what, **facts}) + "\n")


@tool(name="guest.lookup", description="Look a word up.", context=True)
async def lookup(word: str, context: ToolContext) -> str:
    """The meaning of a word."""
    return f"{word} means 42 to {context.state['crew']['task']}"


class Plugin:
    """What Bub gets."""

    @hookimpl
    def load_state(self, session_id: str) -> dict[str, Any]:
        """Fail, in a way that ends a turn of Bub itself, for sessions of the crew alone."""
        if session_id.startswith("temp/crew-"):
            raise RuntimeError("nothing to load")
        return {}

    @hookimpl
    def system_prompt(self, state: dict[str, Any]) -> str:
        """Say who is spoken to."""
        who = state.get("crew")
        return f"GUEST BLOCK for {who['role']} {who['agent']}" if who else ""

    @hookimpl
    async def before_tool_call(self, call: ToolCall, state: dict[str, Any]) -> ToolCallDecision | None:
        """No shells and no adding for members of a crew."""
        if "crew" in state and call.tool in ("bash", "mcp__calc__add"):
            return ToolCallDecision.deny(f"the guest forbids {call.tool}")
        return None

    @hookimpl
    def after_tool_call(self, call: ToolCall, state: dict[str, Any]) -> None:
        """Note each call with who made it."""
        note("tool", tool=call.tool, who=state.get("crew"))


class Gate:
    """What the crew gets."""

    @crew.hookimpl
    def before_task_start(self, event: crew.TaskStarting) -> crew.Verdict:
        """Add to what is asked."""
        return crew.Verdict(changes={"task": f"{event.task} AND BE KIND"}, diagnostic="kindness added")

    @crew.hookimpl
    async def session_connected(self, event: crew.SessionOpened) -> None:
        """Note a session."""
        note("connected", key=event.key, agent=event.agent)

    @crew.hookimpl
    def session_disconnected(self, event: crew.SessionClosed) -> None:
        """Note its end."""
        note("disconnected", key=event.key)

    @crew.hookimpl
    def task_result(self, event: crew.TaskResult) -> None:
        """Note what was handed in."""
        note("result", summary=event.summary)

    @crew.hookimpl
    def after_run_end(self, event: crew.RunEnded) -> None:
        """Fail where nothing depends on it."""
        raise RuntimeError("the guest leaves a mess")


def plugin(framework: object) -> Plugin:
    """Bub's entry point."""
    return Plugin()
