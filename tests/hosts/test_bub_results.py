"""Results of sessions in a real Bub: jobs that hold them, parts, schemas of callers, and megabytes."""

from pathlib import Path

import pytest

from crew_plugin.engine.plan import WantedResult
from crew_plugin.models.states import RunState
from crew_plugin.testing.conversation import Conversation, Reply
from crew_plugin.ui.views import run_document, run_view
from tests.hosts.bub_played import played, use

pytestmark = [pytest.mark.bub, pytest.mark.anyio]


async def test_a_result_waits_for_a_shell_in_the_background_and_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(said: Conversation) -> Reply:
        if not said.tool_results:
            return use(
                "bash", command="while [ ! -e go ]; do sleep 0.02; done; echo built 42", background=True
            )
        if len(said.tool_results) == 1:
            return use("submit_result", summary="before the build")
        if "built 42" in said.last_user:
            return use("submit_result", summary="the build says 42")
        Path(said.find(r"Your working folder is (\S+);") or "", "go").touch()
        return Reply(text="I stand by.")

    async with played(tmp_path, monkeypatch, script) as told:
        assert told.run.state is RunState.COMPLETED
        assert [result.summary for result in await told.results()] == ["the build says 42"]
        [held] = await told.events("result.held")
        assert held.data["reason"] == "running"
        [ended] = await told.events("session.job_ended")
        assert (ended.data["ok"], ended.data["what"][:5]) == (True, "while")


async def test_a_job_that_never_ends_is_ended_for_the_result_that_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [
        use("bash", command="sleep 300", background=True),
        use("submit_result", summary="done"),
        Reply(text="I stand by."),
    ]
    async with played(tmp_path, monkeypatch, lambda _: replies.pop(0), jobs_seconds=0.3) as told:
        assert told.run.state is RunState.COMPLETED
        assert [result.flags for result in await told.results()] == [("unchecked", "jobs_ended")]
        [reached] = await told.events("session.limit_reached")
        assert reached.data == {"limit": "jobs_seconds", "value": 0.3}


async def test_jobs_that_the_session_kills_let_its_result_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(said: Conversation) -> Reply:
        shell = said.find(r"shell_id: (bash-\w+)")
        match len(said.tool_results):
            case 0:
                return use("bash", command="sleep 300", background=True)
            case 1:
                return use("submit_result", summary="done")
            case 2:
                return use("bash_kill", shell_id=shell)
            case _:
                return Reply(text="That was all.")

    async with played(tmp_path, monkeypatch, script) as told:
        assert told.run.state is RunState.COMPLETED
        assert [result.flags for result in await told.results()] == [("unchecked",)]
        assert await told.events("session.job_ended") == []


async def test_a_shell_that_the_session_saw_ending_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(said: Conversation) -> Reply:
        last = said.tool_results[-1].text if said.tool_results else ""
        shell = said.find(r"shell_id: (bash-\w+)")
        if not said.tool_results:
            return use("bash", command="echo quick", background=True)
        if "status: exited" in last:
            return use("submit_result", summary="quick")
        return use("bash_output", shell_id=shell)

    async with played(tmp_path, monkeypatch, script) as told:
        assert told.run.state is RunState.COMPLETED
        assert await told.events("result.held") == []


async def test_parts_make_up_a_result_in_the_caller_s_jtd_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {
        "properties": {"found": {"elements": {"type": "string"}}, "score": {"type": "uint8"}},
        "optionalProperties": {"note": {"type": "string"}},
    }
    replies = [
        use("submit_result", type=["found"], data=["a"]),
        use("submit_result", type=["found"], data="b"),
        use("submit_result", type=["colour"], data="red"),
        use("submit_result", type=["score"], data=300),
        use("submit_result", type=["score"], data=30),
        use("submit_result", summary="all of it"),
    ]
    wanted = WantedResult(schema=schema, mode="strict")
    async with played(tmp_path, monkeypatch, lambda _: replies.pop(0), result=wanted) as told:
        assert told.run.state is RunState.COMPLETED
        [result] = await told.results()
        assert (result.data, result.flags) == ({"found": ["a", "b"], "score": 30}, ())
        assert [event.data["path"] for event in await told.events("result.rejected")] == [
            "type",
            "data.score",
        ]
        first = told.model.requests[0].conversation.first_user
        assert "JSON Type Definition" in first
        assert "takes the place of any output format" in first


async def test_what_a_session_handed_in_on_the_way_is_shown_when_it_never_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(said: Conversation) -> Reply:
        if not said.tool_results:
            return use("submit_result", type=["found"], data=["a leak in pool.py"])
        return Reply(text="I would rather not.")

    async with played(tmp_path, monkeypatch, script) as told:
        assert told.run.state is RunState.FAILED
        view = await told.crew.writer.read(lambda store: run_view(store, told.run.id))
        [task] = view.tasks
        assert [part.label for part in task.sections] == ["found"]
        document = await told.crew.writer.read(lambda store: run_document(store, view, view.tasks))
        assert "a leak in pool.py" in document["tasks"][0]["last_text"]
        assert "I would rather not." in document["tasks"][0]["last_text"]


async def test_megabytes_of_arguments_are_kept_once_and_named_where_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "line of a log\n" * 60_000
    replies = [use("submit_result", summary="see the log", artifacts={"log.txt": body})]
    async with played(tmp_path, monkeypatch, lambda _: replies.pop(0)) as told:
        assert told.run.state is RunState.COMPLETED
        [result] = await told.results()
        assert result.artifacts["log.txt"].size == len(body)
        view = await told.crew.writer.read(lambda store: run_view(store, told.run.id))
        document = await told.crew.writer.read(lambda store: run_document(store, view, view.tasks))
        assert len(str(document)) < 100_000
        attempt = await told.crew.writer.read(
            lambda store: store.load_attempt(str(store.load_task(told.run.id, "t1").attempt_id))
        )
        entries = await told.crew.writer.read(lambda store: store.read_transcript(attempt.session_id))
        assert sum(len(str(entry.data)) for entry in entries) < 100_000


async def test_arguments_above_the_limit_are_refused_and_the_limit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [
        use("submit_result", summary="x" * 20_001),
        use("submit_result", summary="short"),
    ]
    async with played(tmp_path, monkeypatch, lambda _: replies.pop(0), max_bytes=20_000) as told:
        assert told.run.state is RunState.COMPLETED
        [rejected] = await told.events("result.rejected")
        assert "20,000 characters" in rejected.data["error"]
        assert "result.max_bytes" in rejected.data["error"]
