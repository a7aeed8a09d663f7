"""Everything private of Bub that the crew touches, and the test whether it is still there.

Nothing outside this package may use a name of Bub that begins with an underscore, or subclass
a class of Bub. The package itself is light: what it needs of Bub is imported in its functions.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnusedExpression=false

import importlib.metadata
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final

__all__ = ["BUILTIN", "OFFERED", "SUPPORTED", "probe", "register_tool"]

SUPPORTED: Final = ((0, 5, 1), (0, 6))
"""From this version on, and before that one."""
BUILTIN: Final = "builtin"
"""The name under which Bub registers its own hooks."""
OFFERED: Final[set[str]] = set()
"""Names of the tools that we offer to Bub's user: none of them is another plugin's."""


def probe(version: str | None = None) -> str | None:
    """Why the crew cannot work with the installed Bub (or with `version`); None if it can.

    The version decides first, then every private thing that is going to be used is looked for.
    """
    version = version or importlib.metadata.version("bub")
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not SUPPORTED[0] <= numbers < SUPPORTED[1]:
        return f"Bub {version} is not supported; crew-plugin works with bub>=0.5.1,<0.6"
    try:
        missing = _missing()
    except (ImportError, AttributeError) as error:
        missing = str(error)
    return f"Bub {version} lacks what crew-plugin needs: {missing}" if missing else None


def _missing() -> str | None:
    from bub.builtin.agent import Agent
    from bub.builtin.model_runner import ModelOutputAccumulator, ModelRunner
    from bub.builtin.shell_manager import shell_manager
    from bub.framework import BubFramework
    from bub.hooks.interception import AgentHooks
    from bub.hooks.runtime import HookRuntime
    from bub.tools import _TOOL_CALL_REPORTER, Tool

    parameters: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...] = (
        (Agent.__init__, ("framework", "tools", "tape_store", "skill_dirs", "command_prefix")),
        (Agent.run_stream, ("session_id", "prompt", "state", "model")),
        (Agent._system_prompt, ("prompt", "state")),
        (ModelRunner.__init__, ("settings", "hooks")),
        (ModelRunner.completion_response, ("model", "messages", "tools")),
        (ModelRunner._completion_events, ("completion", "state", "output")),
        (ModelRunner.iter_llm_clients, ("model",)),
        (HookRuntime._iter_hookimpls, ("hook_name",)),
        (AgentHooks._safe_call_one, ("hook_name", "impl", "kwargs")),
        (HookRuntime._kwargs_for_impl, ("impl", "kwargs")),
        (Tool, ("name", "handler", "description", "parameters", "context", "exposure", "renderer")),
    )
    for function, names in parameters:
        gone = set(names) - set(inspect.signature(function).parameters)
        if gone:
            return f"{function.__qualname__} without {', '.join(sorted(gone))}"
    accumulator = ModelOutputAccumulator()
    accumulator._message_calls, accumulator._stream_calls  # noqa: B018 - raises where they are gone
    shell_manager._shells, BubFramework.plugin_manager, _TOOL_CALL_REPORTER.name  # noqa: B018 - as above
    return None


def register_tool(
    *, name: str, description: str, parameters: dict[str, Any], handler: Callable[..., Awaitable[str]]
) -> None:
    """Offer a tool to the sessions of Bub's user. `handler` gets `context` and the arguments."""
    from bub.tools import REGISTRY, Tool

    OFFERED.add(name)
    REGISTRY[name] = Tool(
        name=name,
        handler=handler,
        description=description,
        parameters=parameters,
        context=True,
        exposure="direct",
    )
