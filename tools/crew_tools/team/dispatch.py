"""From an action and its raw arguments to the module that does it."""

from collections.abc import Awaitable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from crew_plugin.errors import CallerError, Forgotten
from crew_plugin.host import ToolContext, ToolOutput
from crew_tools.loading import ONE_AT_A_TIME
from crew_tools.params import Params, parse
from crew_tools.team.actions import ACTIONS, Action
from crew_tools.team.answer import as_data

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["all_keys", "dispatch", "load_action"]


class ActionModule(Protocol):
    """What a module behind an action holds."""

    PARAMETERS: type[Params]

    def act(self, crew: "Crew", params: Any, context: ToolContext) -> Awaitable[ToolOutput]:
        """Do it."""
        ...


def load_action(action: Action) -> ActionModule:
    """The module behind an action."""
    return cast("ActionModule", import_module(action.module))


async def dispatch(
    crew: "Crew", action: Action, arguments: Mapping[str, Any], context: ToolContext
) -> ToolOutput:
    """Check the arguments and do it. Parameters of other actions are passed over in silence."""
    module = await _loaded(action)
    try:
        parsed = parse(module.PARAMETERS, arguments, elsewhere=all_keys())
    except CallerError as error:
        example = f"In the chat: {action.chat}" if context.by_hand else f"Example: {action.example}"
        raise CallerError(f"{action.name}: {error}. {example}") from error
    output = await module.act(crew, parsed.params, context)
    return ToolOutput(
        text=await _told(crew, output),
        details={"action": action.name, **output.details, **parsed.details()},
        ends_session=output.ends_session,
    )


async def _told(crew: "Crew", output: ToolOutput) -> str:
    """The text. Of a run that was imported all of it is data: its names and causes, too, may have been
    written by anybody."""
    run_id = output.details.get("run_id")
    if not isinstance(run_id, str):
        return output.text
    try:
        run = await crew.writer.read(lambda store: store.load_run(run_id))
    except Forgotten:
        return output.text
    return output.text if run.imported is None else as_data(run.id, output.text)


async def _loaded(action: Action) -> ActionModule:
    """The module, with everything that the first call needs, imported off the loop."""
    if not all_keys.cache_info().currsize:
        import anyio.to_thread

        await anyio.to_thread.run_sync(all_keys)
    return load_action(action)


@cache
def all_keys() -> frozenset[str]:
    """Every parameter of the tool."""
    with ONE_AT_A_TIME:
        keys = (key for action in ACTIONS.values() for key in load_action(action).PARAMETERS.spellings())
        return frozenset({"action", *keys})
