"""The model of the kill loop, in a process of its own: `python -m tests.faults.wide_model`.

It keeps nothing: what it answers follows from the request, so that a session that is taken up again in
another process is answered as the first one was.
"""

import argparse
import asyncio
import sys

from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer

__all__ = ["EFFECTS", "MARK", "WIDE"]

MARK = "MARK"
"""Stands before a task's key in its text."""
EFFECTS = "effects.log"
"""Where each session says once that it was there."""
WIDE = "start the wide run"
"""What a chat says to have the run started."""


def wide(conversation: Conversation) -> Reply:
    """A worker reads a file, has an effect outside, calls an MCP tool and hands in a text of its own; a
    chat starts the run. What was called once is not called again, whatever came of it."""
    if not conversation.offered("submit_result"):
        return _chat(conversation)
    key = conversation.find(rf"{MARK} (s\d+)")
    called = {
        call["function"]["name"]
        for message in conversation.messages
        for call in message.get("tool_calls") or ()
    }
    if "read" not in called:
        return Reply(text="I look first.", calls=(ToolUse(name="read", arguments={"path": "app.py"}),))
    if conversation.offered("bash") and "bash" not in called:
        command = f'echo "$CREW_SESSION {key}" >> {EFFECTS}; sleep 0.2'
        return Reply(calls=(ToolUse(name="bash", arguments={"command": command}),))
    if conversation.offered("mcp__plain__add") and "mcp__plain__add" not in called:
        return Reply(calls=(ToolUse(name="mcp__plain__add", arguments={"a": 1, "b": 2}),))
    summary = f"REPORT {key}, request {conversation.number}"
    return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": summary}),))


def _chat(conversation: Conversation) -> Reply:
    said = conversation.last_user
    if "[crew delivery" in said:
        return Reply(text="RECEIVED")
    if conversation.new_results:
        return Reply(text=f"TOOL SAID {conversation.new_results[-1].text}")
    if WIDE in said:
        arguments = {"action": "run", "team": "wide", "goal": "look around", "async": True}
        return Reply(calls=(ToolUse(name="team", arguments=arguments),))
    return Reply(text="YOU SAID something")


async def _serve(latency: float) -> None:
    async with ScriptedModelServer(wide, latency=latency, keep_requests=False) as server:
        print(server.base_url, flush=True)
        await asyncio.to_thread(sys.stdin.read)  # ends when the parent does


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency-ms", type=float, default=0.0)
    asyncio.run(_serve(parser.parse_args().latency_ms / 1000))
