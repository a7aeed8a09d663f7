"""The model of every benchmark: one file is read, then the result is submitted.

Usage: python -m bench.server LATENCY_MS. Prints its base URL; ends with its standard input.
"""

import asyncio
import resource
import sys

from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer


def one_tool_call_then_a_result(conversation: Conversation) -> Reply:
    """Read README.md; then submit the token that the task names, so that results can be told apart."""
    if conversation.tool_results:
        token = conversation.find(r"token-\d{4}") or "no token"
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": token}),))
    return Reply(calls=(ToolUse(name="read", arguments={"path": "README.md"}),))


async def serve(latency: float) -> None:
    """Serve until the standard input ends."""
    async with ScriptedModelServer(
        one_tool_call_then_a_result, latency=latency, keep_requests=False
    ) as server:
        print(server.base_url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    asyncio.run(serve(float(sys.argv[1]) / 1000))
