"""`respond`: answer the question of a session, or list what is asked."""

from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from crew_plugin.engine.answers import Reply, answer_to, open_questions
from crew_plugin.errors import CallerError
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.questions import QuestionRecord
from crew_plugin.ui.questions import questions_text
from crew_plugin.ui.shapes import question_json
from crew_plugin.ui.text import one_line
from crew_tools.params import Params
from crew_tools.team.launch import actor_of

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.store.port import RunStore

__all__ = ["PARAMETERS", "RespondParams", "act", "how_to_answer"]


class RespondParams(Params):
    """Whose question, and the answer."""

    run_id: str | None = Field(
        default=None,
        description="respond: the run whose question it is; left out where only one question is open.",
    )
    task_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("task_id", "task"),
        description="One task of the run, by its key.",
    )
    answer: str | None = Field(
        default=None,
        validation_alias=AliasChoices("answer", "message", "text"),
        description="respond: the answer; left out, the open questions are listed.",
    )
    force: bool = Field(default=False, description="Also a question in a run that somebody else started.")


PARAMETERS = RespondParams


def how_to_answer(question: QuestionRecord) -> str:
    """The call that answers a question."""
    return f'action="respond", run_id="{question.run_id}", task_id="{question.key}", answer="..."'


async def act(crew: "Crew", params: RespondParams, context: ToolContext) -> ToolOutput:
    """Answer it. The session goes on at once, or as soon as its run is driven again."""
    if not params.answer:
        questions = await crew.writer.read(open_questions)
        text = questions_text(questions, how_to_answer) or "no question is open"
        return ToolOutput(text=text, details={"questions": [question_json(each) for each in questions]})
    reply = await crew.writer.read(lambda store: _understood(store, params, context))
    question = await crew.writer.run(lambda store: answer_to(store, reply))
    return ToolOutput(
        text=f"{question.run_id} {question.key} has its answer: {one_line(question.answer or '', 200)}",
        details={"question": question_json(question), "run_id": question.run_id},
    )


def _understood(store: "RunStore", params: RespondParams, context: ToolContext) -> Reply:
    """In a chat, `RUN TASK words` may stand for a run, a task and the answer."""
    task, answer = params.task_id, params.answer or ""
    first, _, rest = answer.partition(" ")
    if context.by_hand and task is None and params.run_id is not None and rest.strip():
        asking = {question.key for question in open_questions(store, _run_of(store, params.run_id))}
        if first in asking:
            task, answer = first, rest.strip().strip("\"'")
    return Reply(
        run=params.run_id,
        task=task,
        text=answer,
        actor=actor_of(context),
        force=params.force,
        caller=context.parent,
    )


def _run_of(store: "RunStore", name: str) -> str | None:
    try:
        return store.load_run(name).id
    except CallerError:
        return None
