"""`prune`: delete the ended runs that are old, or beyond the newest ones."""

from typing import TYPE_CHECKING

from pydantic import Field

from crew_plugin.engine.forget import Thinning, deed_of, overdue, prune, thinnings
from crew_plugin.errors import NotAllowed
from crew_plugin.hookspecs import Removing
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.ui.text import one_line, pruned_text, shorten
from crew_tools.team.answer import LIMIT
from crew_tools.team.confirm import Destructive, need_confirmation
from crew_tools.team.launch import actor_of

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.records import RunRecord
    from crew_plugin.store.port import RunStore

__all__ = ["PARAMETERS", "PruneParams", "act"]


class PruneParams(Destructive):
    """Which of them."""

    days: float | None = Field(
        default=None, ge=0, description="prune: those that ended longer ago; else as the settings say."
    )
    keep: int | None = Field(
        default=None, ge=0, description="prune: those beyond the newest so many; else as the settings say."
    )
    force: bool = Field(default=False, description="prune: also runs of other sessions.")
    dry_run: bool = Field(default=False, description="prune, cleanup: only list what would be removed.")


PARAMETERS = PruneParams


async def act(crew: "Crew", params: PruneParams, context: ToolContext) -> ToolOutput:
    """Delete them; runs that go on, or whose results are owed, stay."""
    kept = crew.settings.keep

    def look(store: "RunStore") -> "tuple[list[RunRecord], list[Thinning], str]":
        old = overdue(
            store,
            days=kept.days if params.days is None else params.days,
            keep=kept.runs if params.keep is None else params.keep,
            caller=context.parent,
            force=params.force,
        )
        thin = thinnings(
            store,
            days=kept.details_days,
            megabytes=kept.details_mb,
            beside={run.id for run in old},
            caller=context.parent,
            force=params.force,
        )
        return old, thin, deed_of(store, old, thin)

    old, thin, deed = await crew.writer.read(look)
    if not deed:
        return ToolOutput(text="no ended run is older or further back than what is kept")
    if params.dry_run:
        lines = [f"{run.id}  {run.state}  {one_line(run.goal, 60)}" for run in old]
        lines += [f"{each.run.id}  details only: {each.because}" for each in thin]
        text = shorten("\n".join([f"this would {deed}:", *lines]), LIMIT)
        return ToolOutput(
            text=text,
            details={"would_forget": [run.id for run in old], "would_thin": [each.run.id for each in thin]},
        )
    why = need_confirmation(crew, deed, params)
    old, kept_by_hooks = await _allowed(crew, old, actor_of(context), why)
    removed, thinned, freed = await crew.writer.apart(
        lambda store: prune(store, crew.project, old, thin, actor=actor_of(context), why=why)
    )
    return ToolOutput(
        text="\n".join([pruned_text(removed, thinned, freed), *kept_by_hooks]),
        details={
            "forgotten": [each.run_id for each in removed],
            "thinned": [each.run_id for each in thinned],
            "freed_bytes": freed,
        },
    )


async def _allowed(
    crew: "Crew", runs: "list[RunRecord]", actor: str, why: str
) -> "tuple[list[RunRecord], list[str]]":
    """Those that no hook wants to keep, and what to say about the others."""
    allowed: list[RunRecord] = []
    kept: list[str] = []
    for run in runs:
        try:
            await crew.supervisor.allow("before_forget", Removing(run_id=run.id, actor=actor, reason=why))
        except NotAllowed as error:
            kept.append(f"run {run.id} stays: {error}")
        else:
            allowed.append(run)
    return allowed, kept
