"""`mail`: what was said in a run, one task's boxes, acknowledging, giving again, repair."""

from typing import TYPE_CHECKING, Literal

from pydantic import AliasChoices, Field

from crew_plugin.engine.postbox import ALL, MailOrder, carry_out, in_box, may_mend, mend, what_is_wrong
from crew_plugin.errors import InvalidValue
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.store.liveness import current_owner
from crew_plugin.ui.receipts import findings_text, mail_text
from crew_plugin.ui.shapes import finding_json, mail_json
from crew_tools.team.answer import LIMIT, quoted
from crew_tools.team.launch import actor_of
from crew_tools.team.runparams import OfRun

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.mail import MessageRecord

__all__ = ["PARAMETERS", "MailParams", "act"]


class MailParams(OfRun):
    """Whose mail, and what is to become of it."""

    task_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("task_id", "task"),
        description="One task of the run, by its key.",
    )
    box: Literal["inbox", "outbox"] | None = Field(
        default=None, description="mail: only what is for the task, or only what is from it."
    )
    ack: str | None = Field(
        default=None,
        description='mail: this message is settled; nobody is given it. An id, or "all" of a task\'s inbox.',
    )
    replay: str | None = Field(
        default=None,
        description="mail: give this message again to the task's next session, since the one that had it "
        'never read it. An id or "all".',
    )
    repair: Literal["look", "do"] | None = Field(
        default=None, description="mail: settle mail that cannot move any more (do), or only list it (look)."
    )
    force: bool = Field(default=False, description="Also in a run that somebody else started.")


PARAMETERS = MailParams


async def act(crew: "Crew", params: MailParams, context: ToolContext) -> ToolOutput:
    """List it, or settle what is open."""
    if sum(value is not None for value in (params.ack, params.replay, params.repair)) > 1:
        raise InvalidValue("mail", "several at once", "one of ack, replay, repair")
    if params.ack == ALL and params.task_id is None:
        raise InvalidValue("ack", ALL, "used with the task_id whose inbox it is")
    run = await crew.writer.read(lambda store: store.load_run(params.run_id))
    changes = params.ack is not None or params.replay is not None or params.repair == "do"
    if changes:
        may_mend(run, context.parent, current_owner(), force=params.force)
    if params.repair is not None:
        return await _mended(crew, run.id, actor_of(context), done=changes)
    order = MailOrder(
        run_id=run.id,
        actor=actor_of(context),
        key=params.task_id,
        box=params.box,
        ack=params.ack,
        replay=params.replay,
    )
    if changes:
        found = await crew.writer.run(lambda store: carry_out(store, order))
    else:
        found = await crew.writer.read(lambda store: in_box(store, run.id, params.task_id, params.box))
    return _said(run.id, found)


async def _mended(crew: "Crew", run_id: str, actor: str, *, done: bool) -> ToolOutput:
    findings = await (
        crew.writer.run(lambda store: mend(store, run_id, actor=actor))
        if done
        else crew.writer.read(lambda store: what_is_wrong(store, run_id))
    )
    return ToolOutput(
        text=findings_text(findings, done=done),
        details={"run_id": run_id, "repaired": done, "findings": [finding_json(each) for each in findings]},
    )


def _said(run_id: str, found: "list[MessageRecord]") -> ToolOutput:
    text = mail_text(found)
    if len(text) > LIMIT:
        text = f"{text[:LIMIT]}\n... {len(text) - LIMIT:,} more characters; name a task_id and a box"
    return ToolOutput(
        text=f"run {run_id}: {len(found):,} messages\n{quoted(text)}",
        details={"run_id": run_id, "mail": [mail_json(each) for each in found]},
    )
