"""Starting a planned run for a tool call: awaited, or in the background where that makes sense."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from crew_plugin.errors import HostUnsupported, InvalidValue
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.records import RunRecord
from crew_tools.progress import progress
from crew_tools.team.answer import read_answer
from crew_tools.team.collect import collect

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.spec import RunSpec, RuntimeMode

__all__ = ["actor_of", "folder_inside", "go_on", "launch", "planned_by", "runtime_asked"]

CANNOT_DELIVER = (
    "(It was to run in the background, but nothing can be delivered to this conversation later, "
    "so this call waited for it.)\n"
)
_TO_A_MODEL = (
    "Its results come to this conversation by themselves, once, when it is over. Do not poll and "
    "do not wait for it: go on with other work, or end your turn."
)
_TO_A_PERSON = "Its results come to this chat by themselves, once, when it is over."


def actor_of(context: ToolContext) -> str:
    """How the caller is named in the store."""
    return f"session:{context.session}"


async def folder_inside(crew: "Crew", cwd: str | None) -> str:
    """The folder a run works in. Raises `InvalidValue` when it is not one of the project."""
    import anyio.to_thread

    root = crew.project.root

    def resolved() -> str | None:
        try:
            folder = (root / (cwd or ".")).resolve()
            inside = folder.is_dir() and folder.is_relative_to(Path(root).resolve())
        except (OSError, RuntimeError, ValueError):
            return None
        return str(folder) if inside else None

    folder = await anyio.to_thread.run_sync(resolved)
    if folder is None:
        raise InvalidValue("cwd", cwd, f"a folder inside the project {str(root)!r}")
    return folder


def runtime_asked(runtime: "RuntimeMode | None", *, dry_run: bool) -> "RuntimeMode | None":
    """What `dry_run` and `runtime` together ask for. Raises `InvalidValue` where they disagree."""
    if dry_run and runtime not in (None, "scaffold"):
        raise InvalidValue("runtime", runtime, "scaffold, or left out, where dry_run is true")
    return "scaffold" if dry_run else runtime


async def planned_by(plan: "Callable[[], RunSpec]") -> "RunSpec":
    """The plan, made off the loop: one of hundreds of tasks takes its time."""
    import anyio.to_thread

    return await anyio.to_thread.run_sync(plan)


async def go_on(crew: "Crew", run: RunRecord, context: ToolContext, *, background: bool) -> ToolOutput:
    """Execute a run that was adopted, awaited or in the background."""
    if background and context.can_deliver_later:
        crew.supervisor.start(run.id)
        text = f"run {run.id} goes on in the background; its results come to whoever asked for it."
        return ToolOutput(text=text, details={"run_id": run.id, "background": True})
    async with progress(crew, run.id, context):
        await crew.supervisor.execute(run.id)
    return await collect(crew, run.id, context)


async def launch(
    crew: "Crew", spec: "RunSpec", context: ToolContext, *, background: bool, width: int | None = None
) -> ToolOutput:
    """Write the run down and execute it. In the background its id comes back at once; the result
    follows by itself. `width` is what the caller asked for, to be told where it got less."""
    narrowed = (
        f"(At most {spec.width} at once, not {width}: the settings and the team allow no more.)\n"
        if width is not None and width > spec.width
        else ""
    )
    # A dry run is over before anybody could wait for it, and has nothing to deliver.
    dry = spec.runtime_requested == "scaffold"
    later = background and context.can_deliver_later and context.parent is not None and not dry
    run = await crew.supervisor.submit(spec, parent=context.parent, background=later, actor=actor_of(context))
    if later:
        return await _in_background(crew, run, spec, narrowed, by_hand=context.by_hand)
    async with progress(crew, run.id, context):
        await crew.supervisor.execute(run.id)
    answer = await crew.writer.read(lambda store: read_answer(store, run.id))
    return ToolOutput(
        text=narrowed + (CANNOT_DELIVER if background and not dry else "") + answer.text,
        details={"run_id": run.id, "state": answer.view.shown_state, "background": False},
    )


async def _in_background(
    crew: "Crew", run: RunRecord, spec: "RunSpec", narrowed: str, *, by_hand: bool
) -> ToolOutput:
    """In a process of its own that outlives the host, or, where there can be none, in the host's."""
    if crew.detaches:
        try:
            detached = await crew.detach(run.id)
        except HostUnsupported as error:
            where = f"{error}; it ends with this process.\n"
        else:
            owner = detached.run.owner
            pid = f" (process {owner.pid})" if owner else ""
            where = f"It goes on when this process is closed{pid}; log: {detached.log}.\n"
            return _started(run, spec, narrowed + where, by_hand=by_hand)
        narrowed += where
    crew.supervisor.start(run.id)
    return _started(run, spec, narrowed, by_hand=by_hand)


def _started(run: RunRecord, spec: "RunSpec", notes: str, *, by_hand: bool) -> ToolOutput:
    steps = ", ".join(f"{step.id} ({step.agent})" for step in spec.steps[:12])
    more = f" and {len(spec.steps) - 12} more" if len(spec.steps) > 12 else ""
    return ToolOutput(
        text=(
            f"run {run.id} ({run.team}/{run.workflow}) was started in the background: {steps}{more}.\n"
            f"{notes}{_TO_A_PERSON if by_hand else _TO_A_MODEL}\n"
            f'If it is no longer wanted: action="cancel", run_id="{run.id}".'
        ),
        details={"run_id": run.id, "state": str(run.state), "background": True},
    )
