"""What a session may use beside its conversation: the host's tools for its agent, and kept bodies."""

from dataclasses import dataclass

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.host import Engine
from crew_plugin.mcp.names import Access
from crew_plugin.session.material import artifact_of
from crew_plugin.store.writer import StoreWriter

__all__ = ["Equipment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """The same for each conversation of one session."""

    context: AttemptContext
    engine: Engine
    writer: StoreWriter

    @property
    def ours(self) -> tuple[str, ...]:
        """The names of tools that its agent lists, without those that it is denied."""
        agent = self.context.spec.agents[self.context.step.agent]
        return Access(allow=agent.tools, deny=agent.deny_tools).within(agent.tools)

    async def theirs(self, wanted: tuple[str, ...], cwd: str) -> tuple[str, ...]:
        """The host's tools for this agent, and those of its own servers."""
        agent = self.context.spec.agents[self.context.step.agent]
        if not wanted and not agent.mcp_servers:
            return ()
        return await self.engine.available_tools(
            wanted, cwd, denied=agent.deny_tools, servers=agent.mcp_servers
        )

    async def keep(self, name: str, body: bytes) -> str:
        """Keep what a session is not shown whole; says how `read` gets it."""
        run, task = self.context.run.id, self.context.task
        path = f"{task.key}/{name}"
        kept = await self.writer.run(
            lambda store: store.put_artifact(run, path, body, task_id=task.id, log=True)
        )
        return f"artifact:{kept.sha256[:12]} ({kept.name}, {kept.size} bytes; `read` takes it for a path)"

    async def read_artifact(self, ref: str) -> bytes:
        """A body that this run stored."""
        run_id = self.context.run.id
        return await self.writer.read(lambda store: artifact_of(store, run_id, ref))
