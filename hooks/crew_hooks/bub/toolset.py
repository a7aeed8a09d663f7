"""The tools of one session: ours and Bub's, each behind one wrapper that writes down what it does."""

import asyncio
import json
import os
import posixpath
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bub.tools import Tool
from loguru import logger

from crew_hooks.bub.compat import agent as compat
from crew_hooks.bub.compat.runner import MALFORMED
from crew_hooks.bub.jobs import Jobs
from crew_plugin.engine.intime import is_ours
from crew_plugin.errors import CrewError
from crew_plugin.host import (
    SessionEvent,
    SessionSpec,
    ToolCall,
    ToolContext,
    ToolEnded,
    ToolError,
    ToolOutput,
    ToolProgress,
    ToolSpec,
    ToolStarted,
)
from crew_plugin.models.records import Effect
from crew_plugin.session.limits import UNTIMED
from crew_plugin.ui.text import shorten

__all__ = ["HOST_TOOLS", "HostTools", "Toolset"]

HOST_TOOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "bash": ("bash", "bash.output", "bash.kill"),
    "edit": ("fs.edit",),
    "write": ("fs.write",),
}
"""Host-neutral name -> the tools of Bub behind it."""

_NAMES: Final = {
    "fs.edit": "edit",
    "fs.write": "write",
    "bash.output": "bash_output",
    "bash.kill": "bash_kill",
}
_EFFECTS: Final = {
    "bash": Effect.EXTERNAL,
    "bash.kill": Effect.EXTERNAL,
    "bash.output": Effect.PURE,
    "fs.edit": Effect.EXTERNAL,
    "fs.write": Effect.IDEMPOTENT,
}
_TELLING: Final = ("path", "command", "pattern", "query", "url", "name", "to", "action", "summary")
_TARGET_LENGTH: Final = 100
_SHOWN: Final = 32_000
"""Characters of a command's output that go to the model at once."""
_NOT_KEPT: Final = "not kept; call the tool again for a smaller part of it"
_KEPT_OUTPUTS: Final = 8
_PROGRESS_SECONDS: Final = 2.0


class Toolset:
    """Binds the tools of a session to Bub, journals them, and tells what they do.

    `expect` is told the calls that a model wants before Bub runs them, because Bub does not
    tell a tool the id of the call.
    """

    def __init__(
        self,
        spec: SessionSpec,
        host_session: str,
        emit: Callable[[SessionEvent], None],
        host: Sequence[ToolSpec],
    ) -> None:
        self._spec = spec
        self._host_session = host_session
        self._emit = emit
        self._expected: tuple[ToolCall, ...] = ()
        self._pending: list[ToolCall] = []
        self._answered: dict[str, bool] = {}
        """Calls that another plugin answered, and whether it gave a result."""
        self._made: dict[asyncio.Task[Any] | None, ToolEnded] = {}
        """By the tasks of their calls, ends that are not told: other plugins see the results first."""
        self.replace(host)
        self._running: dict[object, str] = {}
        self.session_ended = False

    def replace(self, host: Sequence[ToolSpec]) -> None:
        """Have these tools of the host in place of those before."""
        self._host_names = frozenset(tool.name for tool in host)
        self._tools = {tool.name: self._bound(tool) for tool in (*self._spec.tools, *host)}

    def tools(self, only: frozenset[str] | None = None, *, without: Collection[str] = ()) -> list[Tool]:
        """What to offer: all, or those that are in `only`; nothing that is in `without`."""
        return [
            tool
            for name, tool in self._tools.items()
            if (only is None or name in only) and name not in without
        ]

    def expect(self, calls: Sequence[ToolCall]) -> None:
        """Note the calls of an answer."""
        self._expected = tuple(calls)
        self._pending = list(calls)

    def running(self) -> tuple[str, ...]:
        """The tools whose calls have not ended."""
        return tuple(self._running.values())

    def settle(self, results: Sequence[object]) -> None:
        """Tell of the calls that never reached a tool: unknown names, and what a hook refused."""
        for call, result in zip(self._expected, results, strict=False):
            if call in self._pending and self._spec.journal is not None:
                self._spec.journal.skip()
            if call in self._pending or call.id in self._answered:
                self._emit(ToolStarted(call_id=call.id, name=call.name))
                self._emit(
                    ToolEnded(
                        call_id=call.id,
                        name=call.name,
                        text=compat.rendered(result),
                        ok=self._answered.get(call.id, False),
                        milliseconds=0.0,
                        known=call.name in self._tools,
                    )
                )
        self._pending = []
        self._answered = {}

    def ended(self, result: object) -> None:
        """The call of the current task is over. Told is what its model is given: another plugin may have
        taken out of it what nobody is to be told."""
        made = self._made.pop(asyncio.current_task(), None)
        if made is not None:
            self._emit(replace(made, text=compat.rendered(result)))

    async def settled(self, name: str, arguments: Mapping[str, Any], plugin: str, denied: str | None) -> None:
        """Another plugin answered a call in the tool's place: it is not made, and that is written
        down as any call is."""
        self._answered[self._claim(name, arguments)] = denied is None
        journal = self._spec.journal
        if journal is None:
            return
        how = "gave a result in its place" if denied is None else f"denied it: {denied}"
        try:
            entry = await journal.begin(name, arguments, Effect.PURE)
            await journal.end(entry, f"not made; the plugin {plugin} {how}")
        except ToolError as error:
            logger.warning("crew: a call of {} that {} answered is not journalled: {}", name, plugin, error)

    def _bound(self, tool: ToolSpec) -> Tool:
        async def handler(**arguments: Any) -> str:
            return await self._call(tool, arguments)

        return compat.OpenTool(
            name=tool.name,
            handler=handler,
            description=tool.description,
            parameters=dict(tool.parameters),
            exposure="direct",
        )

    def _claim(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The id of the call with this name and these arguments."""
        same = [call for call in self._pending if call.name == name]
        exact = [call for call in same if _parsed(call.arguments) == arguments]
        for call in (*exact, *same):
            self._pending.remove(call)
            return call.id
        return ""

    async def _call(self, tool: ToolSpec, arguments: dict[str, Any]) -> str:
        call_id = self._claim(tool.name, arguments)
        self._emit(ToolStarted(call_id=call_id, name=tool.name, target=_target(arguments)))
        begun = time.perf_counter()
        ok = True
        seconds = None if tool.name in UNTIMED else self._spec.limits.tool_seconds
        limit = asyncio.timeout(seconds)
        call = object()
        self._running[call] = tool.name
        try:
            async with limit:
                output = await self._journalled(tool, arguments, call_id)
        except (ToolError, CrewError) as error:
            ok, output = False, ToolOutput(text=f"Error: {error}")
        except BaseException as error:  # the model is told, and so is the log
            if is_ours(error):
                raise
            ok, output = False, ToolOutput(text=f"Error: {type(error).__name__}: {error}")
            if isinstance(error, TimeoutError) and limit.expired():
                text = (
                    f"Error: {tool.name} was stopped after {seconds:g} s, its limit; ask for less at a time"
                )
                output = ToolOutput(text=text)
            elif isinstance(error, asyncio.CancelledError):
                # Nobody cancelled the session. Bub would end it over this.
                output = ToolOutput(text=f"Error: {tool.name} was cancelled before it was done")
            else:
                logger.opt(exception=error).warning("crew: {} failed in {}", tool.name, self._host_session)
        finally:
            del self._running[call]
        self.session_ended = self.session_ended or output.ends_session
        self._made[asyncio.current_task()] = ToolEnded(
            call_id=call_id,
            name=tool.name,
            text=output.text,
            ok=ok,
            milliseconds=(time.perf_counter() - begun) * 1000,
            ends_session=output.ends_session,
        )
        return output.text

    def _progress(self, tool: str, call_id: str) -> Callable[[str], Awaitable[None]]:
        """Tells how far a call is, but not more often than anybody can read."""
        told = -_PROGRESS_SECONDS

        async def tell(text: str) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= _PROGRESS_SECONDS:
                told = now
                self._emit(ToolProgress(call_id=call_id, name=tool, text=text))

        return tell

    async def _journalled(self, tool: ToolSpec, arguments: dict[str, Any], call_id: str) -> ToolOutput:
        if MALFORMED in arguments:
            written = str(arguments[MALFORMED])
            if self._spec.journal is not None:
                self._spec.journal.skip()
            if tool.unreadable is not None:
                return await tool.unreadable(written)
            raise ToolError(
                f"the arguments of {tool.name} were not a JSON object, so nothing was done. They began "
                f"with {written[:200]!r} and ended with {written[-100:]!r}. "
                "Call it again with a complete JSON object"
            )
        progress = self._progress(tool.name, call_id)
        context = ToolContext(session=self._host_session, call_id=call_id, progress=progress)
        journal = self._spec.journal
        if journal is None or tool.name not in self._host_names:
            return await tool.execute(arguments, context)
        try:
            entry = await journal.begin(tool.name, arguments, tool.effect)
        except Exception as error:
            raise ToolError(f"{tool.name} was not called: it could not be written down ({error})") from error
        try:
            output = await tool.execute(arguments, context)
        except asyncio.CancelledError:
            await journal.end(entry, None, cancelled=True)
            raise
        except BaseException as error:
            if not is_ours(error):
                await journal.end(entry, str(error) or type(error).__name__)
            raise
        await journal.end(entry, None)
        return output


def _parsed(text: str) -> object:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {MALFORMED: text}


def _target(arguments: Mapping[str, Any]) -> str:
    """One short fact about a call: its path, its command, its query."""
    told = next((arguments[name] for name in _TELLING if isinstance(arguments.get(name), str)), "")
    line = " ".join(str(told).split())
    return line if len(line) <= _TARGET_LENGTH else line[: _TARGET_LENGTH - 1] + "…"


@dataclass(slots=True)
class HostTools:
    """Bub's own tools for one session, confined to its folder and to its shells."""

    session_id: str
    cwd: str
    agent: compat.CrewAgent
    state: dict[str, Any]
    environment: compat.SessionEnvironment
    jobs: Jobs
    _outputs: OrderedDict[str, str] = field(default_factory=OrderedDict[str, str])
    _made: int = 0

    def specs(self, names: Iterable[str]) -> list[ToolSpec]:
        """The tools behind these names: Bub's by their host-neutral names, other plugins' by their own.
        Names that there is nothing for are left out."""
        names = tuple(names)
        wanted = dict.fromkeys(bub for name in names for bub in HOST_TOOLS.get(name, ()))
        found = [self._spec(bub, tool) for bub in wanted if (tool := compat.offered_tool(bub)) is not None]
        theirs = [compat.plugin_tool(name) for name in names if name not in HOST_TOOLS]
        return [*found, *(self._plugins(tool) for tool in theirs if tool is not None)]

    def _plugins(self, tool: Tool) -> ToolSpec:
        """A tool that another plugin brings. It finds in the state which session calls it."""

        async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
            answer = await compat.run_host_tool(tool, self.agent, self.state, arguments)
            return ToolOutput(text=shorten(answer, _SHOWN, _NOT_KEPT))

        return ToolSpec(
            name=tool.name.replace(".", "_"),
            description=tool.description,
            parameters=tool.parameters,
            execute=execute,
            effect=Effect.EXTERNAL,
        )

    def _spec(self, bub: str, tool: Tool) -> ToolSpec:
        async def run(arguments: Mapping[str, Any]) -> str:
            return await compat.run_host_tool(tool, self.agent, self.state, arguments)

        guards = {"bash": self._bash, "bash.output": self._output, "bash.kill": self._shell}
        guard = guards.get(bub, self._file)

        async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
            return ToolOutput(text=await guard(arguments, run))

        description = tool.description
        for theirs, ours in _NAMES.items():
            description = description.replace(theirs, ours)
        return ToolSpec(
            name=_NAMES.get(bub, bub),
            description=description,
            parameters=tool.parameters,
            execute=execute,
            effect=_EFFECTS[bub],
        )

    async def _bash(self, arguments: Mapping[str, Any], run: "_Run") -> str:
        try:
            answer = await run(arguments)
            self.jobs.began(str(arguments.get("command", "")), answer)
            return self._shortened(answer)
        except RuntimeError as error:  # how Bub tells of an exit code, with the whole output
            raise ToolError(self._shortened(str(error))) from error

    async def _output(self, arguments: Mapping[str, Any], run: "_Run") -> str:
        whole = self._outputs.get(str(arguments.get("shell_id")))
        if whole is None:
            return self._shortened(await self._shell(arguments, run))
        start = _number(arguments.get("offset"), 0)
        end = min(len(whole), start + min(_SHOWN, _number(arguments.get("limit"), _SHOWN)))
        return f"characters {start} to {end} of {len(whole)}\n{whole[start:end]}"

    async def _shell(self, arguments: Mapping[str, Any], run: "_Run") -> str:
        shell_id = str(arguments.get("shell_id"))
        if compat.shell_of(shell_id) != self.session_id:
            raise ToolError(f"this session has no shell {shell_id!r} that still runs or has output to read")
        with self.jobs.looked_at(shell_id):
            return await run(arguments)

    async def _file(self, arguments: Mapping[str, Any], run: "_Run") -> str:
        path = arguments.get("path")
        if not isinstance(path, str) or not path:
            raise ToolError("path must be the path of a file in this session's folder")
        resolved = await self._inside(path)
        return await run({**arguments, "path": resolved})

    async def _inside(self, path: str) -> str:
        """The real path, if it is in the session's folder. Raises `ToolError`."""
        given = self.environment.resolve_path(path)
        if compat.is_local(self.environment):
            real, root = await asyncio.to_thread(_real, given, self.cwd)
        else:
            real, root = _plain(given), _plain(self.environment.workspace or self.cwd)
        if not Path(real).is_relative_to(root):
            raise ToolError(
                f"{path!r} leads out of this session's folder {root!r}; only files in it can be changed"
            )
        return real

    def _shortened(self, text: str) -> str:
        """Head and tail of a long output; the whole of it can be read on with `bash_output`."""
        if len(text) <= _SHOWN:
            return text
        self._made += 1
        ident = f"output-{self._made}"
        self._outputs[ident] = text
        while len(self._outputs) > _KEPT_OUTPUTS:
            self._outputs.popitem(last=False)
        head, tail = text[: _SHOWN * 3 // 4], text[-_SHOWN // 4 :]
        left = f"{len(text) - len(head) - len(tail):,} characters left out"
        return f"{head}\n... {left}; read them with bash_output, shell_id {ident!r} ...\n{tail}"


_Run = Callable[[Mapping[str, Any]], Awaitable[str]]


def _number(value: object, default: int) -> int:
    return max(0, value) if isinstance(value, int) else default


def _real(path: str, root: str) -> tuple[str, str]:
    return os.path.realpath(path), os.path.realpath(root)


def _plain(path: str) -> str:
    """A path of another machine: no link of it can be looked at."""
    return posixpath.normpath(path)
