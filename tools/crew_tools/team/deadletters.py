"""`deadletters`: tasks that were given up although their failure may pass."""

from typing import TYPE_CHECKING, Literal

from pydantic import AliasChoices, Field

from crew_plugin.engine.deadletters import deed_of_dropping, drop_letters, keys_by_run, open_letters
from crew_plugin.engine.retry import Again
from crew_plugin.errors import CrewError, InvalidValue, NotAllowed
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.records import DeadLetter
from crew_plugin.store.liveness import current_owner
from crew_plugin.ui.deadletters import dead_letters_text
from crew_plugin.ui.shapes import dead_letter_json
from crew_tools.team.answer import quoted
from crew_tools.team.confirm import Destructive, need_confirmation
from crew_tools.team.launch import actor_of
from crew_tools.team.retry import try_again

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "DeadLettersParams", "act"]


class DeadLettersParams(Destructive):
    """Which of them, and what becomes of them."""

    op: Literal["list", "requeue", "drop"] = Field(
        default="list",
        description="deadletters: list them, requeue (try the tasks again), or drop (let them go; needs "
        "confirm).",
    )
    letter: str | None = Field(
        default=None,
        validation_alias=AliasChoices("letter", "run_id"),
        description='deadletters: the id of one, a run for all of it, or "all".',
    )
    background: bool = Field(
        default=False,
        validation_alias=AliasChoices("async", "background", "run_in_background"),
        description="Return at once; the results come by themselves when they are there.",
    )
    force: bool = Field(default=False, description="Also those of a run that somebody else started.")


_NONE = "no task waits for somebody to try it again"
PARAMETERS = DeadLettersParams


async def act(crew: "Crew", params: DeadLettersParams, context: ToolContext) -> ToolOutput:
    """List them, have their tasks tried again, or let them go."""
    if params.op != "list" and params.letter is None:
        raise InvalidValue("letter", None, 'the id of a dead letter, a run, or "all"')
    letters = await crew.writer.read(lambda store: open_letters(store, params.letter))
    if params.op != "list" and not letters:
        raise NotAllowed(_NONE)
    if params.op == "requeue":
        return await _requeued(crew, params, context, letters)
    if params.op == "drop":
        return await _dropped(crew, params, context, letters)
    text = quoted(dead_letters_text(letters)) if letters else _NONE
    how = (
        '\ntry again: action="deadletters", op="requeue", letter="ID"\n'
        'let go: action="deadletters", op="drop", letter="ID"'
        if letters
        else ""
    )
    return ToolOutput(
        text=text + how, details={"dead_letters": [dead_letter_json(letter) for letter in letters]}
    )


async def _requeued(
    crew: "Crew", params: DeadLettersParams, context: ToolContext, letters: list[DeadLetter]
) -> ToolOutput:
    """The runs go on side by side. One that cannot keeps no other from it."""
    import anyio

    answers: dict[str, ToolOutput | CrewError] = {}

    async def one(run_id: str, tasks: tuple[str, ...]) -> None:
        again = Again(
            run=run_id, actor=actor_of(context), tasks=tasks, force=params.force, caller=context.parent
        )
        try:
            answers[run_id] = await try_again(crew, again, context, background=params.background)
        except CrewError as error:
            answers[run_id] = error

    keys = keys_by_run(letters)
    async with anyio.create_task_group() as group:
        for run_id, tasks in keys.items():
            group.start_soon(one, run_id, tasks)
    if len(keys) == 1:
        (answer,) = answers.values()
        if isinstance(answer, CrewError):
            raise answer
        return answer
    return ToolOutput(
        text="\n\n".join(
            f"run {run_id} is not tried again: {answer}" if isinstance(answer, CrewError) else answer.text
            for run_id in keys
            if (answer := answers[run_id])
        ),
        details={
            "requeued": [
                {"run_id": run_id, "error": str(answer)} if isinstance(answer, CrewError) else answer.details
                for run_id in keys
                if (answer := answers[run_id])
            ]
        },
    )


async def _dropped(
    crew: "Crew", params: DeadLettersParams, context: ToolContext, letters: list[DeadLetter]
) -> ToolOutput:
    why = need_confirmation(crew, deed_of_dropping(letters), params)
    dropped = await crew.writer.run(
        lambda store: drop_letters(
            store,
            letters,
            actor=actor_of(context),
            reason=why,
            caller=context.parent,
            me=current_owner(),
            force=params.force,
        )
    )
    return ToolOutput(
        text=f"{len(dropped)} dropped; the tasks stay as they ended, and so do their results",
        details={"dropped": [dead_letter_json(letter) for letter in dropped]},
    )
