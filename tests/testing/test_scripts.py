"""The shipped scripts do what a model would, from nothing but the conversation."""

import json
from collections.abc import Mapping
from typing import Any

from crew_plugin.testing.conversation import Conversation, ToolUse
from crew_plugin.testing.scripts import demo, parent, worker

SUBMIT: dict[str, Any] = {"type": "object", "properties": {"summary": {"type": "string"}, "data": {}}}
FILES = {"ls": {}, "find": {}, "grep": {}, "read": {}, "submit_result": SUBMIT}


def talk(
    *exchanges: tuple[ToolUse, str],
    user: str,
    tools: Mapping[str, Mapping[str, Any]],
    system: str = "You explore.",
    forced: str | None = None,
) -> Conversation:
    messages: list[Mapping[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
    ]
    for number, (use, text) in enumerate(exchanges):
        function = {"name": use.name, "arguments": json.dumps(dict(use.arguments))}
        call = {"id": f"c{number}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": text})
    return Conversation(messages=tuple(messages), tools=tools, model="m", forced=forced, number=1)


def test_a_worker_looks_around_before_anything_else() -> None:
    reply = worker(talk(user="Review it", tools=FILES))
    assert [use.name for use in reply.calls] == ["ls", "find", "grep"]


def test_a_worker_reads_the_files_its_search_found() -> None:
    found = (ToolUse(name="find", arguments={"pattern": "**/*.py"}), "app/auth.py\napp/main.py\n")
    reply = worker(talk(found, user="Review it", tools=FILES))
    assert {use.name for use in reply.calls} == {"read"}
    assert {use.arguments["path"] for use in reply.calls} == {"app/auth.py", "app/main.py"}


def test_a_worker_reads_the_files_named_in_its_task_first() -> None:
    found = (ToolUse(name="find", arguments={"pattern": "**/*.py"}), "a.py\nb.py\nc.py\nd.py\n")
    reply = worker(talk(found, user="Check d.py:12: `x = 1`", tools=FILES))
    assert reply.calls[0].arguments["path"] == "d.py"


def test_a_worker_submits_lines_that_it_was_shown() -> None:
    read = (
        ToolUse(name="read", arguments={"path": "a.py"}),
        "a.py: lines 1 to 2 of 2\n     1\tpassword = 'hunter2'\n     2\tx",
    )
    (submitted,) = worker(talk(read, user="Review it", tools=FILES)).calls
    assert submitted.name == "submit_result"
    assert "a.py:1: `password = 'hunter2'`" in submitted.arguments["summary"]


def test_a_forced_worker_submits_at_once() -> None:
    (submitted,) = worker(talk(user="x", tools=FILES, forced="submit_result")).calls
    assert submitted.name == "submit_result"


def test_a_worker_fits_its_data_to_the_schema_it_is_offered() -> None:
    data = {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["ok", "bad"]},
            "findings": {
                "type": "array",
                "items": {"type": "object", "properties": {"line": {"type": "integer"}}},
            },
        },
        "required": ["verdict", "findings"],
    }
    schema = {"type": "object", "properties": {"summary": {"type": "string"}, "data": data}}
    (submitted,) = worker(talk(user="x", tools={"submit_result": schema})).calls
    assert submitted.arguments["data"] == {"verdict": "ok", "findings": [{"line": 1}, {"line": 1}]}


def test_a_parent_calls_the_team_when_it_is_asked_to() -> None:
    tools = {"team": {"type": "object", "properties": {"action": {}, "goal": {}, "run_in_background": {}}}}
    reply = parent(talk(user="have a team review this in the background", tools=tools))
    (call,) = reply.calls
    assert call.name == "team"
    assert call.arguments["team"] == "review"
    assert call.arguments["run_in_background"] is True


def test_a_parent_answers_with_what_the_team_handed_in() -> None:
    handed = (ToolUse(name="team", arguments={"action": "run"}), "explorer: found 3 things")
    reply = parent(talk(handed, user="have a team review this", tools={"team": {}}))
    assert not reply.calls
    assert "> explorer: found 3 things" in reply.text


def test_the_demo_plays_both_parts() -> None:
    assert demo(talk(user="hi", tools={})).text == "You said: hi"
    assert demo(talk(user="go", tools=FILES)).calls
    assert demo(talk(user="ask a team to fix it", tools={"team": {}})).calls[0].name == "team"
