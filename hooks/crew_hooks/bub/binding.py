"""The hooks of Bub in which the crew takes part. Each one hands over at once."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, Final

from bub.channels.admission import AdmitDecision, TurnSnapshot
from bub.channels.base import Channel
from bub.channels.contracts import MessageHandler
from bub.channels.message import ChannelMessage
from bub.envelope import Envelope, content_of, field_of
from bub.framework import BubFramework
from bub.hooks import hookimpl
from bub.hooks.interception import (
    LlmCallRequest,
    LlmCallResult,
    ToolCall,
    ToolCallDecision,
    ToolCallResult,
)
from bub.turn import TurnState
from loguru import logger
from typer import Context

from crew_hooks.bub import commands, compat
from crew_hooks.bub.channel import CHANNEL, CrewChannel
from crew_hooks.bub.compaction import CUTS
from crew_hooks.bub.compat import mcp
from crew_hooks.bub.compat import parent as private
from crew_hooks.bub.ending import nothing_left_running
from crew_hooks.bub.host import PARENT, BubHost, compose
from crew_hooks.bub.keeper import Keeper
from crew_hooks.bub.lifecycle import COMMAND_SESSION, CrewLife, Turns, is_ours
from crew_plugin.bundle import bundle_root
from crew_plugin.errors import CrewError
from crew_tools.offering import offer_tools

if TYPE_CHECKING:
    import typer
    from bub.tools import ToolContext as BubContext

    from crew_hooks.bub.delivery import Delivery
    from crew_hooks.bub.questions import Asked
    from crew_plugin.crew import Crew
    from crew_plugin.models.records import ParentRef, RunRecord
    from crew_plugin.project import Project

__all__ = ["CrewPlugin", "Inactive", "load"]

STATE: Final = "_crew_turn"
MCP_SECONDS: Final = 25.0
"""How long one MCP server of a chat may take to get ready; bub-mcp itself waits for ever."""
_CLI_HELP: Final = "A crew of agents: start teams, watch them, read what they hand in."
_AT_THE_FIRST_TURN: Final = (
    "crew_hooks.bub.delivery",
    "crew_plugin.project",
    "crew_plugin.store.liveness",
    "crew_tools.crew_agent",
    "crew_tools.team",
)
"""Bub loads this plugin in every process: what only a turn needs is imported by the first one."""

LINE: Final = "_crew_line"
"""The rest of a chat command that Bub's own reading of it would refuse."""


class Inactive:
    """What Bub gets when it is not a Bub that the crew can work in: no hook, no tool."""


def load(framework: BubFramework, *, version: str | None = None) -> "CrewPlugin | Inactive":
    """The crew's plugin for this framework, its tools registered; `Inactive`, with one line in
    the log, in a Bub that is too old, too new, or lacks something."""
    found = version or installed_version("bub")
    problem = compat.probe(found)
    if problem is not None:
        logger.warning("crew-plugin is not active: {}", problem)
        return Inactive()
    plugin = CrewPlugin(framework, found)
    # Last: a tool that is offered without its plugin would fail at every call.
    plugin.register()
    return plugin


@dataclass(slots=True)
class _Turn:
    """What one turn of a session has to do with deliveries."""

    opened_by: tuple[str, ...] | None = None
    taken: list[str] = field(default_factory=list[str])


class CrewPlugin:
    """Binds one crew into one Bub framework."""

    def __init__(self, framework: BubFramework, version: str) -> None:
        self._framework = framework
        self._life = CrewLife(self._composed)
        self._host = BubHost(framework, version, self._life)
        self._turns = Turns()
        self._keeper = Keeper(framework, self._life, self._tell)
        self._delivery: Delivery | None = None
        self._asked: Asked | None = None
        self._crew: Crew | None = None
        self._to_open: list[str] = []
        self._sessions: set[str] = set()
        """Those that were looked at."""
        self._project: Project | None = None

    def register(self) -> None:
        """Offer the crew's tools to Bub's model, and its commands to the person in the chat."""
        private.offer_skills([str(bundle_root() / "skills")])

        async def typed(words: tuple[str, ...], options: dict[str, Any], context: "BubContext") -> str:
            return await self._command("team", words, options, context)

        async def crew(*words: str, context: "BubContext", **options: Any) -> str:
            return await self._command("crew", words, options, context)

        private.register_tool(
            name="crew",
            description="Watch and steer runs of the crew: `crew help`.",
            parameters={},
            handler=crew,
            command_only=True,
        )
        for cut in CUTS:
            private.wrap_command(cut, partial(self._keeper.typed, cut))
        self._host.commands["team"] = typed
        self._tool = offer_tools(self._host, self._life.ensure)

    async def _command(
        self, name: str, words: tuple[str, ...], options: dict[str, Any], context: "BubContext"
    ) -> str:
        team = self._tool("team")
        line = context.state.pop(LINE, None)
        if line is None:
            typed = commands.Typed(words=words, options=options)
        else:
            typed = commands.read_line(str(line), frozenset(team.parameters["properties"]))
        return await commands.run_command(name, typed, team, self._host.tool_context(context))

    # --- the crew of this process ---

    @asynccontextmanager
    async def _composed(self) -> AsyncGenerator["Crew"]:
        """The crew, with what only a chat needs: delivery of late results, and lines of progress."""
        from crew_tools.loading import load

        # A command may import the same packages in a thread just now, from their other end.
        for package in ("crew_plugin.config", "crew_plugin.resources"):
            await load(package)
        from crew_hooks.bub.delivery import Delivery
        from crew_hooks.bub.progress import Progress
        from crew_hooks.bub.questions import Asked
        from crew_plugin.notify.watch import Terminal
        from crew_plugin.notify.ways import own_terminal
        from crew_plugin.store.liveness import current_owner

        project = await self._find_project()
        async with AsyncExitStack() as stack:
            terminal = own_terminal()
            shown = None if terminal is None else Terminal(shows=self._shows, write=terminal)
            crew = await stack.enter_async_context(compose(self._framework, project, terminal=shown))
            # A store that cannot be used is told here, before anything begins that would fail over it.
            await crew.writer.read(lambda store: store.last_seq())
            for warning in crew.hooks.warnings() if crew.hooks else ():
                logger.warning("crew-plugin: {}", warning)
            delivery = Delivery(
                crew,
                identity=current_owner(),
                send=self._send,
                on_tape=self._on_tape,
                report=logger.warning,
            )
            await stack.enter_async_context(delivery.running())
            asked = Asked(crew, identity=current_owner(), send=self._send, report=logger.warning)
            await stack.enter_async_context(asked.running())
            if crew.settings.progress:
                progress = Progress(crew, show=self._show, report=logger.warning)
                await stack.enter_async_context(progress.running())
                self._host.progress = progress
            stack.callback(self._decomposed)
            self._delivery, self._asked, self._crew = delivery, asked, crew
            waiting, self._to_open = self._to_open, []
            for session_id in waiting:
                await self._opened(session_id)
            yield crew

    def _shows(self, run: "RunRecord") -> bool:
        """Whether the terminal of this process shows the conversation that asked for a run."""
        from crew_hooks.bub.delivery import alive_owner
        from crew_plugin.store.liveness import current_owner

        if run.parent is None or run.parent.host != "bub" or run.parent.route.get("channel") != "cli":
            return False
        asked = alive_owner(run.parent.route.get("process", ""))
        return asked == current_owner() or (asked is None and self._turns.knows(run.parent.session))

    def _decomposed(self) -> None:
        self._delivery = self._asked = self._host.progress = self._crew = None

    async def _find_project(self) -> "Project":
        from crew_plugin.project import find_project

        if self._project is None:
            self._project = await asyncio.to_thread(find_project, self._framework.workspace)
        return self._project

    async def _on_tape(self, session_id: str, idents: Sequence[str]) -> frozenset[str]:
        from crew_hooks.bub.delivery import delivery_ids

        said = await private.user_messages(self._framework, session_id)
        return frozenset(idents).intersection(ident for text in said for ident in delivery_ids(text))

    async def _send(self, parent: "ParentRef", text: str) -> ChannelMessage | None:
        return await self._host.deliver(parent, text)

    def _tell(self, parent: "ParentRef", line: str) -> None:
        if self._host.progress is not None:
            self._host.progress.line(parent, line)

    async def _show(self, parent: "ParentRef", lines: Sequence[str]) -> None:
        channel = parent.route.get("output_channel", "")
        try:
            if await private.print_lines(self._framework, channel, lines):
                return
        except Exception as error:  # noqa: BLE001 - the display failed; the runs it tells of go on
            logger.warning("crew-plugin could not print its progress: {!r}", error)
        if not self._host.has_channels:
            for line in lines:
                logger.info("crew {}", line)

    @hookimpl(trylast=True)
    async def provide_lifespan(self) -> AsyncIterator[None]:
        """Last to be entered is first to be left: Bub's shells outlive our sessions."""
        mcp.bounded(self._framework, MCP_SECONDS)
        with nothing_left_running(lambda: self._life.begun):
            async with self._host.running():
                yield

    @hookimpl(tryfirst=True)
    def provide_channels(self, message_handler: MessageHandler) -> list[Channel]:
        """First in the list is first to be stopped: before MCP servers and other channels."""
        return [CrewChannel(message_handler, started=self._channels_begin, stopped=self._channels_end)]

    async def _channels_begin(self, channel: CrewChannel) -> None:
        """What a chat in a terminal is owed comes as it opens; other sessions show with their first turn."""
        self._host.attach(channel)
        try:
            session_id = private.chat_session(self._framework)
        except Exception as error:  # noqa: BLE001 - its first turn tells as well
            logger.debug("crew-plugin: which session the chat has is not known yet: {!r}", error)
            return
        if session_id is not None:
            await self._open(session_id)

    async def _channels_end(self) -> None:
        await self._life.close()
        self._host.attach(None)

    # --- a turn of the parent: start, prompt, end ---

    @hookimpl
    async def load_state(self, message: Envelope, session_id: str) -> TurnState:
        """The start of a turn, and of its session if it is the first."""
        session = session_id.removeprefix(COMMAND_SESSION)
        if is_ours(session):
            return {}
        if self._turns.begins(session):
            await asyncio.to_thread(_import_for_turns)
            await self._open(session)
        if self._turns.changes(session) and self._crew is not None:
            self._crew.supervisor.conversation_changed("bub", session)
        return {PARENT: self._parent(message, session), STATE: _Turn()}

    @hookimpl(tryfirst=True)
    async def build_prompt(self, message: Envelope, session_id: str, state: TurnState) -> str | None:
        """Notice which deliveries a turn takes in. Says something itself only where a chat command
        of ours cannot be read by Bub."""
        turn = state.get(STATE)
        if not isinstance(turn, _Turn):
            return None
        from crew_hooks.bub.delivery import delivery_ids

        content = content_of(message)
        idents = delivery_ids(content)
        opens = turn.opened_by is None
        if opens:
            turn.opened_by = idents
        if idents and self._delivery is not None:
            turn.taken.extend(idents)
            self._delivery.taken(idents)
        prefix = private.command_prefix(self._framework)
        spoiled = commands.spoils(content, prefix) if opens else None
        if spoiled is None:
            return None
        name, state[LINE] = spoiled
        message.kind = "command"
        return f"{prefix}{name}"

    @hookimpl
    async def save_state(
        self, session_id: str, state: TurnState, message: Envelope, model_output: str
    ) -> None:
        """The end of a turn, however it ended; its tape is saved by now."""
        turn = state.get(STATE)
        if self._delivery is None or not isinstance(turn, _Turn) or is_ours(session_id):
            return
        try:
            await self._delivery.turn_ended(session_id, turn.taken, opened_by=turn.opened_by or ())
        except CrewError as error:
            logger.warning("crew-plugin: {}", error)
        await self._keeper.turn_ended(session_id, state)

    async def _open(self, session_id: str) -> None:
        """Look, once, for what is owed to a session. Without a store nothing is, and none is made."""
        try:
            project = await self._find_project()
            if session_id in self._sessions or not await asyncio.to_thread(project.database.exists):
                return
            self._sessions.add(session_id)
            if self._delivery is not None:
                await self._opened(session_id)
            else:
                self._to_open.append(session_id)
                self._life.begin()
        except CrewError as error:
            logger.warning("crew-plugin: {}", error)

    async def _opened(self, session_id: str) -> None:
        """Hand over what is owed to a session, and tell of what was lost."""
        if self._delivery is not None:
            await self._delivery.session_opened(session_id)
        if self._asked is not None:
            await self._asked.session_opened(session_id)
        if self._host.progress is not None:
            await self._host.progress.session_opened(session_id)

    def _parent(self, message: Envelope, session_id: str) -> "ParentRef":
        from crew_hooks.bub.delivery import process_text
        from crew_plugin.models.ids import new_id
        from crew_plugin.models.records import TURN, ParentRef
        from crew_plugin.store.liveness import current_owner

        context: Mapping[str, Any] = field_of(message, "context", {}) or {}
        route = {
            "channel": field_of(message, "channel"),
            "chat_id": field_of(message, "chat_id"),
            "output_channel": field_of(message, "output_channel"),
            "thread_id": context.get(commands.THREAD) or context.get("thread_id"),
            "process": process_text(current_owner()),
            TURN: new_id("turn"),
        }
        return ParentRef(
            host="bub", session=session_id, route={key: str(value) for key, value in route.items() if value}
        )

    # --- messages that come while a turn runs ---

    @hookimpl(tryfirst=True)
    async def admit_message(
        self, session_id: str, message: Envelope, turn: TurnSnapshot
    ) -> AdmitDecision | None:
        """Chat commands of ours run at once; all else is decided by the message's channel."""
        if field_of(message, "channel") == CHANNEL:
            message.kind = "normal"
            return None
        if not turn.is_running:
            return None
        if not commands.is_crew_command(content_of(message), private.command_prefix(self._framework)):
            return None
        await private.echo(self._framework, session_id, message, turn)
        commands.set_aside(message, session_id)
        return AdmitDecision("process", reason="a command of the crew")

    # --- what must survive a cut of the history ---

    @hookimpl
    async def before_llm_call(self, request: LlmCallRequest, state: TurnState) -> LlmCallRequest | None:
        """Put the roster of the parent's runs into the call, outside the history."""
        return await self._keeper.before_llm(request, state)

    @hookimpl
    async def after_llm_call(self, request: LlmCallRequest, result: LlmCallResult, state: TurnState) -> None:
        """Note how full the history is, and whether Bub is about to cut it."""
        await self._keeper.after_llm(request, result, state)

    @hookimpl
    async def before_tool_call(self, call: ToolCall, state: TurnState) -> ToolCallDecision | None:
        """Put a cut of the history off while runs are active; note the roster in one that is made."""
        return await self._keeper.before_tool(call, state)

    @hookimpl
    async def after_tool_call(self, call: ToolCall, result: ToolCallResult, state: TurnState) -> None:
        """Note that the history was cut."""
        await self._keeper.after_tool(call, result, state)

    # --- the terminal ---

    @hookimpl
    def register_cli_commands(self, app: "typer.Typer") -> None:
        """`bub crew ...` is `crew ...`: the same app, built when it is called."""
        passed_on: dict[str, Any] = {
            "ignore_unknown_options": True,
            "allow_extra_args": True,
            "help_option_names": [],
        }

        @app.command("crew", help=_CLI_HELP, context_settings=passed_on)
        def crew(context: Context) -> None:
            from crew_plugin.cli.app import run_app

            raise SystemExit(run_app(context.args, name="bub crew"))


def _import_for_turns() -> None:
    for module in _AT_THE_FIRST_TURN:
        import_module(module)
