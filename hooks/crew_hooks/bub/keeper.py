"""Keeps a parent's history from being cut at a bad time, and its runs from being forgotten."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bub.hooks.interception import (
    LlmCallRequest,
    LlmCallResult,
    ToolCall,
    ToolCallDecision,
    ToolCallResult,
)
from bub.turn import TurnState
from loguru import logger

from crew_hooks.bub import guard
from crew_hooks.bub.compaction import CUTS, Compactions, PutOff, asks, forced, put_off_text
from crew_hooks.bub.compat import parent as private
from crew_hooks.bub.host import PARENT
from crew_plugin.errors import CrewError
from crew_plugin.models.facts import ModelTable

if TYPE_CHECKING:
    from bub.framework import BubFramework
    from bub.tools import ToolContext as BubContext

    from crew_hooks.bub.lifecycle import CrewLife
    from crew_plugin.models.records import ParentRef
    from crew_plugin.store.port import RunStore

__all__ = ["Keeper"]

_READ_SECONDS: Final = 2.0
_HANDOFF: Final = "tape.handoff"


class Keeper:
    """What the hooks of a plugin do about histories. Where the crew was never used it does nothing."""

    def __init__(
        self, framework: "BubFramework", life: "CrewLife", tell: "Callable[[ParentRef, str], None]"
    ) -> None:
        self._framework = framework
        self._life = life
        self._tell = tell
        self._compactions: Compactions | None = None

    # --- around model calls ---

    async def before_llm(self, request: LlmCallRequest, state: TurnState) -> LlmCallRequest | None:
        """The call with what the parent must know, in its system message."""
        parent = self._parent(state)
        if parent is None:
            return None
        known = await self._known()
        knows = guard.told_of(request.messages)
        ask = partial(self._ask, known, parent, offered=bool(guard.HANDOFF_TOOLS & {*request.tool_names}))
        block = await self._read(lambda store: guard.roster(store, parent, knows, more=ask(store)))
        return (
            None if block is None else replace(request, messages=guard.with_roster(request.messages, block))
        )

    async def after_llm(self, request: LlmCallRequest, result: LlmCallResult, state: TurnState) -> None:
        """Note how full the history is. Bub answers an overflow by dropping it, and tells nobody."""
        parent = self._parent(state)
        if parent is None:
            return
        known = await self._known()
        if result.error is None:
            known.measured(parent.session, result.usage, request.model)
        elif private.is_overflow(result.error):
            logger.warning("crew-plugin: Bub is dropping the history of {}: it is too long", parent.session)
            await self._was_cut(parent, "overflow")

    # --- around tool calls and commands ---

    async def before_tool(self, call: ToolCall, state: TurnState) -> ToolCallDecision | None:
        """Put a cut off, or let it go with the roster in its summary."""
        parent, tool = self._parent(state), _as_command(call.tool)
        if parent is None or tool not in CUTS:
            return None
        cut = await self._to_put_off(parent, tool, call.arguments, step=call.run_id)
        if cut is not None:
            return ToolCallDecision.replace(put_off_text(cut, prefix=None))
        if tool != _HANDOFF:
            return None
        return ToolCallDecision.proceed(guard.with_note(call.arguments, await self._whole_roster(parent)))

    async def after_tool(self, call: ToolCall, result: ToolCallResult, state: TurnState) -> None:
        """Note a cut that was made."""
        parent, tool = self._parent(state), _as_command(call.tool)
        if parent is None or tool not in CUTS or result.error is not None:
            return
        waiting = (await self._known()).waiting(parent.session)
        # This hook is called for a call that was answered instead of made, too.
        if waiting is None or waiting.step != call.run_id:
            await self._was_cut(parent, tool)

    async def typed(
        self,
        tool: str,
        cut_now: Callable[..., Any],
        words: tuple[str, ...],
        options: dict[str, Any],
        context: "BubContext",
    ) -> Any:
        """A person's command: put off unless it says `force`."""
        now, words, options = forced(words, options)
        parent = self._parent(context.state)
        if parent is not None and not now:
            names = ("name", "summary") if tool == _HANDOFF else ("archive",)
            arguments = {**dict(zip(names, words, strict=False)), **options}
            cut = await self._to_put_off(parent, tool, arguments)
            if cut is not None:
                return put_off_text(cut, prefix=private.command_prefix(self._framework))
        made = await cut_now(*words, context=context, **options)
        if parent is not None:
            await self._was_cut(parent, tool)
        return made

    # --- afterwards ---

    async def turn_ended(self, session_id: str, state: TurnState) -> None:
        """Carry out what was put off, once nothing is active any more. The tape is saved by now."""
        parent = self._parent(state)
        if parent is None or self._compactions is None:
            return
        known = self._compactions
        cut = known.waiting(session_id)
        # Not knowing what is active is no reason to cut: the next turn's end looks again.
        if cut is None or (await self._active(parent) != () and not known.lets_through(session_id)):
            return
        arguments = dict(cut.arguments)
        if cut.tool == _HANDOFF:
            arguments = guard.with_note(arguments, await self._whole_roster(parent))
        try:
            done = await private.cut_history(self._framework, session_id, cut.tool, arguments)
        except Exception as error:  # noqa: BLE001 - a turn of the host's must not fail over its tape
            logger.warning("crew-plugin: {} that was put off failed: {!r}", cut.tool, error)
            self._tell(parent, f"{cut.tool}, which was put off, failed: {error}")
            return
        if done:
            self._tell(parent, f"{cut.tool}, which was put off, is done now")
            await self._was_cut(parent, cut.tool, runs=cut.runs)

    # --- parts ---

    def _parent(self, state: TurnState) -> "ParentRef | None":
        """The session of a turn, if it is one of the host's user and the crew is in use. Bub's own
        subagents have the state of the turn that called them, but a history that is not its."""
        from crew_plugin.models.records import ParentRef

        parent = state.get(PARENT)
        if not isinstance(parent, ParentRef) or state.get("session_id") != parent.session:
            return None
        return parent if self._life.begun else None

    async def _known(self) -> Compactions:
        if self._compactions is None:
            try:
                settings = (await self._life.ensure()).settings
            except CrewError:
                # Without a crew there is nothing to keep; a person's command must work all the same.
                return Compactions(ModelTable())
            self._compactions = Compactions(settings.model_table())
        return self._compactions

    def _ask(self, known: Compactions, parent: "ParentRef", store: "RunStore", *, offered: bool) -> str:
        waiting = known.waiting(parent.session)
        fullness = known.fullness(parent.session)
        return asks(fullness, waiting, active=bool(guard.active_runs(store, parent))) if offered else ""

    async def _to_put_off(
        self, parent: "ParentRef", tool: str, arguments: Mapping[str, Any], *, step: str = ""
    ) -> PutOff | None:
        """Note a cut for later; None if it is to be made now."""
        known = await self._known()
        if self._compactions is None:
            return None
        runs = await self._active(parent)
        if runs == () or known.lets_through(parent.session):
            return None
        cut = PutOff(tool=tool, arguments=dict(arguments), runs=runs or (), step=step)
        known.put_off(parent.session, cut)
        data = {"how": tool, "session": parent.session}
        told = await self._record("parent.compaction_put_off", parent, data)
        if runs is None:
            known.put_off(parent.session, replace(cut, runs=told))
        return cut

    async def _was_cut(self, parent: "ParentRef", how: str, *, runs: Sequence[str] = ()) -> None:
        known = await self._known()
        full = round(known.fullness(parent.session), 3)
        known.cut(parent.session)
        data = {"how": how, "session": parent.session, "full": full}
        await self._record("parent.compacted", parent, data, runs=runs)

    async def _active(self, parent: "ParentRef") -> tuple[str, ...] | None:
        """Its runs that are active; None where that is not known."""
        return await self._read(lambda store: guard.active_runs(store, parent))

    async def _whole_roster(self, parent: "ParentRef") -> str:
        return await self._read(lambda store: guard.roster(store, parent, lambda _: False)) or ""

    async def _read[T](self, look: "Callable[[RunStore], T]") -> T | None:
        """What the store says; None where it does not say it soon: nobody waits for a slow disk."""
        try:
            async with asyncio.timeout(_READ_SECONDS):
                return await (await self._life.ensure()).writer.read(look)
        except (TimeoutError, CrewError) as error:
            logger.warning("crew-plugin: the parent's runs could not be looked up: {!r}", error)
            return None

    async def _record(
        self,
        type: str,  # noqa: A002 - the event's own word
        parent: "ParentRef",
        data: dict[str, Any],
        *,
        runs: Sequence[str] = (),
    ) -> tuple[str, ...]:
        """Write it down with these runs and all that are active by then. Returns with which it was."""
        from crew_plugin.models.records import NewEvent

        event = NewEvent(type=type, actor="host", data=data)

        def write(store: "RunStore") -> tuple[str, ...]:
            told = tuple(dict.fromkeys([*runs, *guard.active_runs(store, parent)]))
            for run_id in told:
                store.append_events(None, run_id, [event])
            return told

        try:
            async with asyncio.timeout(_READ_SECONDS):
                return await (await self._life.ensure()).writer.run(write)
        except (TimeoutError, CrewError) as error:
            logger.warning("crew-plugin: {} is not written down yet: {!r}", type, error)
            return tuple(runs)


def _as_command(tool: str) -> str:
    return tool.replace("_", ".", 1)
