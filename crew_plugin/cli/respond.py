"""`respond`: answers the question of a session, from any terminal, whether its run is driven or not."""

from collections.abc import Callable
from typing import Final

from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place, program
from crew_plugin.engine.answers import Reply, answer_to, open_questions
from crew_plugin.models.questions import QuestionRecord
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore
from crew_plugin.ui.questions import questions_text
from crew_plugin.ui.shapes import question_json
from crew_plugin.ui.text import one_line

__all__ = ["how_to_answer", "respond"]

ACTOR: Final = "operator"


def respond(*, place: Place, json: bool, run: str | None, task: str | None, answer: str | None) -> int:
    """Answer the question of a session, or list what is asked."""
    words = [word for word in (run, task, answer) if word is not None]
    if not words:
        return _listed(place, as_json=json)
    from crew_plugin.store.sqlite import SqliteStore

    store = SqliteStore.open(place.find())
    try:
        question = answer_to(store, _understood(store, words))
        asked = store.load_run(question.run_id)
    finally:
        store.close()
    driven = asked.owner is not None and owner_alive(asked.owner)
    if json:
        print_json({"question": question_json(question), "driven": driven})
    else:
        print(f"{question.run_id} {question.key} has its answer: {one_line(question.answer or '', 200)}")
        print(_what_follows(asked, driven=driven))
    return Exit.OK


def how_to_answer(place: Place) -> Callable[[QuestionRecord], str]:
    """What is typed to answer a question."""
    where = place.options()
    return lambda question: f'{program()} respond {question.run_id} {question.key} "..."{where}'


def _listed(place: Place, *, as_json: bool) -> int:
    with place.reading() as store:
        questions = open_questions(store)
    if as_json:
        print_json({"questions": [question_json(question) for question in questions]})
    else:
        print(questions_text(questions, how_to_answer(place)) or "no question is open")
    return Exit.OK


def _understood(store: RunStore, words: list[str]) -> Reply:
    """`ANSWER`, `RUN ANSWER` or `RUN TASK ANSWER`."""
    if len(words) == 1:
        return Reply(text=words[0], actor=ACTOR)
    run = store.load_run(words[0]).id
    if len(words) == 2:
        return Reply(run=run, text=words[1], actor=ACTOR)
    return Reply(run=run, task=words[1], text=words[2], actor=ACTOR)


def _what_follows(run: RunRecord, *, driven: bool) -> str:
    if run.state in RUN_TERMINAL or driven:
        return "its session goes on with it"
    return "nobody drives the run now; the answer is kept until somebody does"
