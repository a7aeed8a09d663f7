"""`steer`: tell one agent something while it works, or stop it."""

from typing import TYPE_CHECKING, Literal

from pydantic import AliasChoices, Field

from crew_plugin.engine.address import Address, find_address, find_run
from crew_plugin.engine.cancel import Wish
from crew_plugin.engine.steer import Order, Say
from crew_plugin.errors import CallerError, NotAllowed, UnknownName
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.ui.receipts import receipt_text
from crew_plugin.ui.text import one_line
from crew_tools.team.confirm import Destructive, need_confirmed_force
from crew_tools.team.launch import actor_of

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.engine.cancel import CancelReport
    from crew_plugin.store.port import RunStore

__all__ = ["PARAMETERS", "SteerParams", "act"]


class SteerParams(Destructive):
    """Whom, what, and how soon."""

    agent_id: str = Field(
        validation_alias=AliasChoices("agent_id", "run_id", "agent", "id"),
        description="Whom: the id that crew_agent gave, RUN/TASK for a task of a run, or the task's key "
        "alone while only one active run has it.",
    )
    task_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("task_id", "task"),
        description="One task of the run, by its key.",
    )
    message: str = Field(
        default="",
        validation_alias=AliasChoices("message", "text", "goal", "prompt"),
        description="What it is to know or do, complete in itself; with stop, why.",
    )
    follow_up: bool = Field(
        default=False, description="Not at its next step, but when its present turn has ended."
    )
    stop: Literal["turn", "agent", "tree"] | None = Field(
        default=None,
        description="Stop instead: turn breaks off what it does now and it goes on with the message; agent "
        "ends the agent; tree ends the whole run and every run that its agents started.",
    )
    force: bool = Field(
        default=False, description="Also an agent that somebody else started; stopping it then needs confirm."
    )


PARAMETERS = SteerParams


async def act(crew: "Crew", params: SteerParams, context: ToolContext) -> ToolOutput:
    """Do it and give the receipt."""
    address, text = await crew.writer.read(lambda store: _understood(store, params))
    if params.stop in ("agent", "tree"):
        return await _stop(crew, params, address, text, context)
    say = Say.INTERRUPT if params.stop else Say.FOLLOW_UP if params.follow_up else Say.STEER
    report = await crew.supervisor.order(
        Order(
            run_id=address.run.id,
            say=say,
            actor=actor_of(context),
            task=address.task.key,
            text=text,
            force=params.force,
            caller=context.parent,
        )
    )
    if report.refused:
        raise NotAllowed(f"{address}: {report.receipt.reason}")
    return ToolOutput(text=f"{address.run.id}/{receipt_text(report.receipt)}", details=report.as_json())


def _understood(store: "RunStore", params: SteerParams) -> tuple[Address, str]:
    """Who is meant, and what is said. In a chat, `RUN TASK words` may stand without a slash."""
    if params.task_id is not None:
        return find_address(store, params.task_id, run=params.agent_id), params.message
    if params.stop == "tree":
        return _any_of(store, params.agent_id), params.message
    try:
        return find_address(store, params.agent_id), params.message
    except CallerError as error:
        key, _, rest = params.message.partition(" ")
        if key:
            try:
                return find_address(store, key, run=params.agent_id), _bare(rest.strip())
            except UnknownName:
                pass
        raise error from None


def _bare(text: str) -> str:
    """The text without the quotes that hold it together as a whole."""
    quote = text[:1]
    held = quote in ("'", '"') and len(text) > 1 and text.endswith(quote) and text.count(quote) == 2
    return text[1:-1] if held else text


def _any_of(store: "RunStore", name: str) -> Address:
    """A run through any of its tasks."""
    try:
        run = find_run(store, name)
    except UnknownName:
        return find_address(store, name)
    return Address(run=run, task=store.load_tasks(run.id)[0])


async def _stop(
    crew: "Crew", params: SteerParams, address: Address, text: str, context: ToolContext
) -> ToolOutput:
    wish = Wish(
        run_id=address.run.id,
        cause=Cause(code=CauseCode.CALLER_CANCELLED, message=one_line(text or "no reason given", 500)),
        actor=actor_of(context),
        force=params.force,
        task=None if params.stop == "tree" else address.task.key,
        caller=context.parent,
    )
    cause = await need_confirmed_force(crew, wish, params)
    if wish.task is None:
        reports = await crew.supervisor.cancel_tree(
            wish.run_id, cause=cause, actor=wish.actor, force=wish.force, caller=wish.caller
        )
    else:
        reports = [
            await crew.supervisor.cancel(
                wish.run_id,
                cause=cause,
                actor=wish.actor,
                force=wish.force,
                task=wish.task,
                caller=wish.caller,
            )
        ]
    if reports[0].outcome == "refused":
        raise NotAllowed(f"{address} is not stopped: {reports[0].message} (force=true, confirm=true)")
    return ToolOutput(
        text="\n".join(_line(report) for report in reports),
        details={
            "run_id": address.run.id,
            "stopped": [{"run_id": report.run_id, "outcome": str(report.outcome)} for report in reports],
        },
    )


def _line(report: "CancelReport") -> str:
    name = report.run_id if report.task is None else f"{report.run_id}/{report.task}"
    return f"{name}: {str(report.outcome).replace('_', ' ')}: {report.message}"
