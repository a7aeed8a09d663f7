"""Agents that ask, in a real chat: the person answers, or the model does."""

from pathlib import Path

import pytest

from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.scripts import submission
from tests.hosts.bub_chat import read_store, team_script
from tests.hosts.bub_terminal import BubHome, BubTerminal, scripted_model

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

QUESTION = "Which port is it?"


def asks(conversation: Conversation) -> Reply:
    """Workers ask and hand in the answer; the chat's model answers what it is asked with 8080."""
    if conversation.offered("submit_result"):
        if not conversation.tool_results:
            arguments = {"question": QUESTION, "choices": ["80", "8080"]}
            return Reply(calls=(ToolUse(name="ask", arguments=arguments),))
        handed_in = submission(conversation)
        summary = f"HEARD {conversation.tool_results[-1].text}"
        return Reply(
            calls=(ToolUse(name=handed_in.name, arguments={**handed_in.arguments, "summary": summary}),)
        )
    said = conversation.last_user
    if "[crew question" in said and not conversation.new_results:
        run = conversation.find(r"run_[a-z0-9]{10,}")
        arguments = {"action": "respond", "run_id": run or "last", "answer": "8080"}
        return Reply(calls=(ToolUse(name="team", arguments=arguments),))
    return team_script(conversation)


def test_a_person_answers_while_the_turn_waits_for_the_run(tmp_path: Path) -> None:
    with scripted_model(asks) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home) as bub:
            bub.wait_for("command list")
            bub.say("use an agent to look at app.py")
            bub.wait_for("Which port is it")
            bub.say(",team respond last 9090")
            bub.wait_for("one of: 80, 8080; got '9090'")  # the question itself names its choices, too
            bub.say(",team respond last 80")
            bub.wait_for("HEARD The answer")
            assert bub.quit() == 0
    questions = read_store(find_project(home.project), lambda store: store.list_questions())
    assert [(question.state, question.answer) for question in questions] == [("answered", "80")]


@pytest.mark.parametrize("where", ["host", "detached"])
def test_a_question_of_a_background_run_is_put_to_its_chat_once_and_the_model_answers(
    tmp_path: Path, where: str
) -> None:
    with scripted_model(asks) as model:
        home = BubHome.make(tmp_path, model.base_url)
        with BubTerminal(home, env={"CREW_RUNTIME__BACKGROUND": where}) as bub:
            bub.wait_for("command list")
            bub.say("in the background look at app.py")
            bub.wait_for("RECEIVED")
            assert bub.quit() == 0
    project = find_project(home.project)
    questions = read_store(project, lambda store: store.list_questions())
    told = read_store(
        project, lambda store: [event for event in store.tail(None) if event.type == "question.told"]
    )
    (result,) = read_store(project, lambda store: store.list_results(store.load_run("last").id))
    assert [(question.state, question.answer) for question in questions] == [("answered", "8080")]
    assert len(told) == 1
    assert "HEARD The answer" in result.summary
    put = {said for each in model.asked for said in each.user_texts if "[crew question" in said}
    assert len(put) == 1
