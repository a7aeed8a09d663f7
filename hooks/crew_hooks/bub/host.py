"""Bub as a host of the crew: what it offers, and how a crew is put together inside it."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from crew_hooks.bub.compat.parent import register_tool
from crew_hooks.bub.parts import import_parts, loading
from crew_plugin.errors import HostUnsupported

if TYPE_CHECKING:
    from bub.channels.message import ChannelMessage
    from bub.framework import BubFramework
    from bub.tools import ToolContext as BubContext

    from crew_hooks.bub.channel import CrewChannel
    from crew_hooks.bub.lifecycle import CrewLife
    from crew_hooks.bub.progress import Progress
    from crew_plugin.config import Settings
    from crew_plugin.crew import Crew
    from crew_plugin.engine.ports import TaskRunner
    from crew_plugin.engine.snapshot import RetryPolicy
    from crew_plugin.host import Engine, HostInfo, Offered, ToolContext, ToolSpec
    from crew_plugin.models.records import ParentRef
    from crew_plugin.notify.watch import Terminal
    from crew_plugin.project import Project
    from crew_plugin.session.mail import MailPolicy

__all__ = ["PARENT", "BubHost", "CommandHandler", "compose", "host_crew"]

PARENT: Final = "_crew_parent"
"""Under this key of a turn's state stands which session it belongs to, as a `ParentRef`."""

CommandHandler = Callable[[tuple[str, ...], dict[str, Any], "BubContext"], Awaitable[str]]

_FROM_CHAT: Final = "run_command"
"""What Bub gives as the run's id of a tool that a person called by a chat command."""


_PARTS: Final = (
    "crew_hooks.bub.engine",
    "crew_plugin.child.engine",
    "crew_plugin.config",
    "crew_plugin.crew",
    "crew_plugin.engine.supervisor",
    "crew_plugin.notify.watch",
    "crew_plugin.session.runner",
    "crew_plugin.session.scaffold",
    "crew_tools.team.dispatch",
    "crew_tools.toolbox",
)


class BubHost:
    """One framework as the crew sees it. Implements the `Host` port."""

    def __init__(self, framework: "BubFramework", version: str, life: "CrewLife") -> None:
        self._framework = framework
        self._version = version
        self._life = life
        self._channel: CrewChannel | None = None
        self.progress: Progress | None = None
        """Prints a line in a parent's chat; None before the crew's first use."""
        self.commands: dict[str, CommandHandler] = {}
        """What answers when a person, not the model, calls a tool of this name."""

    def identify(self) -> "HostInfo":
        """Bub, and what it can do in this process: without channels nothing can be delivered later."""
        from crew_plugin.host import HostCapability

        info = identify(self._framework, self._version)
        if not self.has_channels:
            return info
        later = {HostCapability.INJECT_IDLE, HostCapability.STEER_PARENT, HostCapability.PROGRESS}
        return replace(info, capabilities=info.capabilities | later)

    def attach(self, channel: "CrewChannel | None") -> None:
        """Deliver through this channel from now on; None when Bub's channels end."""
        self._channel = channel

    @property
    def has_channels(self) -> bool:
        """Whether Bub's channel manager runs: only then can something be delivered later."""
        return self._channel is not None

    def offer(self, schema: "Offered", tool: "Callable[[], ToolSpec]") -> None:
        """Offer a tool to Bub's model, made at its first call. One that `commands` names can be
        called by a person in the chat as well."""
        command = self.commands.get(schema.name)

        async def handle(*words: str, context: "BubContext", **arguments: Any) -> str:
            if command is not None and context.run_id == _FROM_CHAT:
                return await command(words, arguments, context)
            return await self._call(tool(), arguments, context)

        register_tool(
            name=schema.name,
            description=schema.description,
            parameters=dict(schema.parameters),
            handler=handle,
        )

    def tool_context(self, context: "BubContext") -> "ToolContext":
        """Who calls, in the crew's words."""
        from crew_plugin.host import HostCapability, ToolContext
        from crew_plugin.models.records import ParentRef

        known = context.state.get(PARENT)
        parent = known if isinstance(known, ParentRef) else None

        async def progress(line: str) -> None:
            # Looked up now: the call itself may be what brings the crew, and with it the display.
            if self.progress is not None and parent is not None:
                self.progress.line(parent, line)

        return ToolContext(
            session=parent.session if parent else str(context.state.get("session_id", "")),
            call_id=context.run_id or "",
            parent=parent,
            progress=progress,
            can_deliver_later=HostCapability.INJECT_IDLE in self.identify().capabilities,
            by_hand=context.run_id == _FROM_CHAT,
        )

    async def deliver(self, parent: "ParentRef", text: str) -> "ChannelMessage | None":
        """Hand `text` to a session: a new turn if it is idle, steered if it is busy. Returns the
        message, which lives for as long as Bub has it to deal with; None if there is no way now."""
        from crew_hooks.bub.channel import parent_message

        if self._channel is None:
            return None
        message = parent_message(parent, text)
        await self._channel.hand_in(message)
        return message

    def running(self) -> AbstractAsyncContextManager[None]:
        """Start and stop with `framework.running()`."""
        return self._life.running()

    async def _call(self, spec: "ToolSpec", arguments: dict[str, Any], context: "BubContext") -> str:
        from bub.errors import BubError, ErrorKind

        from crew_plugin.host import ToolError

        try:
            return (await spec.execute(arguments, self.tool_context(context))).text
        except ToolError as error:
            raise BubError(ErrorKind.INVALID_INPUT, str(error)) from error
        finally:
            # What the call told stands in the chat before its answer does.
            if self.progress is not None:
                await self.progress.flush()


def identify(framework: "BubFramework", version: str | None = None) -> "HostInfo":
    """Bub, and what it can do in every process."""
    from importlib.metadata import version as installed_version

    from crew_plugin.host import HostCapability, HostInfo

    can = {
        HostCapability.TURN_END,
        HostCapability.PROMPT_CONTEXT,
        HostCapability.BEFORE_COMPACT,
        HostCapability.COMMANDS,
        HostCapability.SKILLS,
        HostCapability.MCP_CATALOG,
        HostCapability.NATIVE_CHILD,
    }
    return HostInfo(
        name="bub",
        version=version or installed_version("bub"),
        cwd=str(framework.workspace),
        capabilities=frozenset(can),
    )


@asynccontextmanager
async def compose(
    framework: "BubFramework",
    project: "Project",
    settings: "Settings | None" = None,
    *,
    terminal: "Terminal | None" = None,
) -> "AsyncGenerator[Crew]":
    """A crew inside a running framework, with the `terminal` of a chat where there is one. On leaving,
    its runs are cancelled and its sessions quiet before the clients and connections that they use are
    closed."""
    # Importing takes longer than the host's loop may be held up.
    await asyncio.to_thread(import_parts, *_PARTS)
    from crew_hooks.bub.engine import BubEngine, mcp_times
    from crew_plugin.child.engine import ChildEngine
    from crew_plugin.child.nursery import Nursery
    from crew_plugin.config import load_settings
    from crew_plugin.crew import Crew
    from crew_plugin.detached.start import can_detach
    from crew_plugin.engine.provider_gate import ProviderGates
    from crew_plugin.engine.supervisor import RecoveryPolicy, Supervisor
    from crew_plugin.models.states import SessionKind
    from crew_plugin.notify.watch import notifying
    from crew_plugin.plugins import load_hooks
    from crew_plugin.resources import is_trusted
    from crew_plugin.session.runner import SessionRunner
    from crew_plugin.session.scaffold import ScaffoldRunner
    from crew_plugin.session.scope import ResultRules
    from crew_plugin.store.writer import StoreWriter
    from crew_tools.toolbox import session_tools

    if settings is None:
        settings = await asyncio.to_thread(load_settings, project.root)
    hooks = await asyncio.to_thread(load_hooks, project.root, trusted=is_trusted(project.root, settings))
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(StoreWriter(project, chatty_events=settings.keep.events))
        gates = ProviderGates(start=settings.provider.start_requests, ceiling=settings.provider.max_requests)
        engine = BubEngine(
            framework,
            gates=gates,
            mcp=mcp_times(settings),
            hook_seconds=settings.hooks.seconds,
        )
        await stack.enter_async_context(engine.running())

        def session_runner(holder: "Engine", kind: SessionKind) -> SessionRunner:
            return SessionRunner(
                engine=holder,
                writer=writer,
                toolbox=session_tools,
                rules=ResultRules(
                    reminders=settings.result.reminders,
                    max_bytes=settings.result.max_bytes,
                    jobs_seconds=settings.result.jobs_seconds,
                ),
                table=settings.model_table(),
                mail=_mail_policy(settings),
                kind=kind,
            )

        runners: dict[SessionKind, TaskRunner] = {
            SessionKind.LIVE: session_runner(engine, SessionKind.LIVE),
            SessionKind.SCAFFOLD: ScaffoldRunner(writer=writer),
        }
        if can_detach():
            nursery = await stack.enter_async_context(
                Nursery(
                    zygote="crew_hooks.bub.zygote",
                    worker="crew_hooks.bub.worker",
                    forks=settings.child.fork and sys.platform == "linux",
                )
            )
            child = ChildEngine(
                engine,
                nursery,
                denied_variables=settings.child.env_deny,
                hook_seconds=settings.hooks.seconds,
            )
            runners[SessionKind.CHILD] = session_runner(child, SessionKind.CHILD)
            if settings.runtime.mode == "child-process":
                nursery.warm()
        supervisor = Supervisor(
            writer=writer,
            runners=runners,
            hooks=hooks.manager,
            hook_seconds=settings.hooks.seconds,
            process_width=settings.limits.process_sessions,
            run_width=settings.limits.width,
            max_dispatches=settings.limits.max_dispatches,
            retry=_retry_policy(settings),
            most_depth=settings.limits.depth,
            recovery=RecoveryPolicy(
                takes_over=settings.recovery.policy == "auto", lease_seconds=settings.recovery.lease_seconds
            ),
            capabilities=engine.capabilities,
            host=identify(framework),
        )
        await stack.enter_async_context(supervisor.running())
        await stack.enter_async_context(notifying(writer, settings, terminal))
        yield Crew(
            project=project,
            settings=settings,
            writer=writer,
            supervisor=supervisor,
            engine=engine,
            hooks=hooks,
            detaches=settings.runtime.background == "detached" and can_detach(),
        )


def _retry_policy(settings: "Settings") -> "RetryPolicy":
    from crew_plugin.engine.snapshot import RetryPolicy
    from crew_plugin.models.causes import CauseCode

    return RetryPolicy(
        base=settings.retry.base_seconds,
        factor=settings.retry.factor,
        cap=settings.retry.cap_seconds,
        jitter=settings.retry.jitter,
        causes=frozenset(CauseCode(code) for code in settings.retry.causes),
    )


def _mail_policy(settings: "Settings") -> "MailPolicy":
    from crew_plugin.session.mail import MailPolicy

    return MailPolicy(
        ask_seconds=settings.ask.seconds,
        ask_max_seconds=settings.ask.max_seconds,
        reply_seconds=settings.mail.reply_seconds,
        reply_max_seconds=settings.mail.reply_max_seconds,
        keep_seconds=settings.mail.keep_seconds,
        wakes_session=settings.mail.wakes_session,
        wakes_run=settings.mail.wakes_run,
        follow_up_steps=settings.mail.follow_up_steps,
        follow_up_seconds=settings.mail.follow_up_seconds,
    )


@asynccontextmanager
async def host_crew(project: "Project", settings: "Settings") -> "AsyncGenerator[Crew]":
    """A crew with a Bub of its own in this process, for as long as the block lasts.

    Raises:
        HostUnsupported: this Bub is not one the crew can work in.
    """
    from importlib.metadata import version

    with loading():
        from bub.framework import BubFramework
        from loguru import logger

        from crew_hooks.bub import compat

    problem = compat.probe(version("bub"))
    if problem is not None:
        raise HostUnsupported(problem)
    # Bub tells of each step on standard error, where the caller shows its run.
    logger.disable("bub")
    try:
        with loading():
            framework = await asyncio.to_thread(BubFramework)
            framework.workspace = project.root
            await asyncio.to_thread(framework.load_hooks)
        async with framework.running(), compose(framework, project, settings) as crew:
            yield crew
    finally:
        logger.enable("bub")
