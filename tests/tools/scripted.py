"""A real crew (store, supervisor, resources) whose sessions do what a test says."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio
import pluggy

from crew_plugin.config import Settings
from crew_plugin.crew import Crew
from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.engine.supervisor import Supervisor
from crew_plugin.host import Engine, ToolContext, ToolOutput
from crew_plugin.models.records import NewEvent, NewResult, ParentRef
from crew_plugin.models.states import AttemptState, SessionKind
from crew_plugin.plugins import build_hooks
from crew_plugin.project import Project
from crew_plugin.store.writer import StoreWriter
from crew_plugin.testing.fake_runner import FakeAttempt, FakeRunner
from crew_tools.team import run_action

PARENT = ParentRef(host="test", session="chat")


def caller(*, later: bool = False, lines: list[str] | None = None, session: str = "chat") -> ToolContext:
    """A model in a chat session."""

    async def show(line: str) -> None:
        assert lines is not None
        lines.append(line)

    return ToolContext(
        session=session,
        call_id="call",
        parent=ParentRef(host="test", session=session),
        can_deliver_later=later,
        progress=show if lines is not None else None,
    )


async def echo(context: AttemptContext) -> NewResult:
    """Hands in what it was asked."""
    return NewResult(summary=f"{context.step.agent} did: {context.step.task}", flags=("unchecked",))


Script = Callable[[AttemptContext], Awaitable[NewResult | Outcome | str]]
"""What a session does: a result is handed in, an outcome is the outcome, a text is the last text
of a session that handed in nothing."""


@dataclass(slots=True)
class Scripted:
    """The crew and what its sessions do."""

    crew: Crew
    runner: FakeRunner
    hooks: pluggy.PluginManager
    script: Script = echo

    async def play(self, attempt: FakeAttempt) -> Outcome:
        """One attempt: it reads a file, then does what the script says."""
        context, lease = attempt.context, attempt.context.lease
        reading = NewEvent(
            type="session.tool_started",
            actor="session",
            task_id=context.task.id,
            attempt_id=context.attempt.id,
            data={"tool": "read", "target": "src/x.py"},
        )
        await attempt.writer.run(lambda store: store.append_events(lease, context.run.id, [reading]))
        done = await self.script(context)
        if isinstance(done, Outcome):
            return done
        if isinstance(done, str):
            return await attempt.leave_text(done)
        await attempt.writer.run(
            lambda store: store.accept_result(lease, context.attempt.id, done, actor="session")
        )
        return Outcome(state=AttemptState.COMPLETED)


@asynccontextmanager
async def scripted_crew(root: Path, settings: Settings | None = None) -> AsyncIterator[Scripted]:
    """A crew in this folder."""
    project = Project(root=root, state_dir=root / ".crew" / "state")
    chosen = settings or Settings()
    async with StoreWriter(project) as writer:
        runner = FakeRunner(writer=writer)
        dry = FakeRunner(writer=writer, kind=SessionKind.SCAFFOLD)
        hooks = build_hooks()
        supervisor = Supervisor(
            writer=writer,
            runners={SessionKind.LIVE: runner, SessionKind.SCAFFOLD: dry},
            hooks=hooks,
            process_width=chosen.limits.process_sessions,
            run_width=chosen.limits.width,
        )
        async with supervisor.running():
            crew = Crew(
                project=project,
                settings=chosen,
                writer=writer,
                supervisor=supervisor,
                engine=cast("Engine", None),  # nothing here opens a session itself
            )
            made = Scripted(crew, runner, hooks)
            runner.default = made.play
            yield made


def run_id_in(text: str) -> str:
    """The first run id in an answer."""
    found = re.search(r"run_\w+", text)
    assert found, text
    return found.group(0)


async def team(scripted: Scripted, context: ToolContext | None = None, /, **arguments: Any) -> ToolOutput:
    """One call of `team`."""
    with anyio.fail_after(30):
        return await run_action(scripted.crew, arguments, context or caller())
