"""A model that sends megabytes, in a real Bub: nothing is lost, and nothing is sent over and over."""

import json
from pathlib import Path

import pytest

from crew_plugin.engine.plan import WantedResult
from crew_plugin.models.states import RunState
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.ui.views import run_document, run_view
from tests.hosts.bub_played import Told, played, use

pytestmark = [pytest.mark.bub, pytest.mark.anyio]

FIVE_MB = "line of a log\n" * 375_000
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


async def document_of(told: Told) -> str:
    """What `show --json` prints of the run."""

    def read(store: object) -> str:
        view = run_view(store, told.run.id)  # type: ignore[arg-type]
        return json.dumps(run_document(store, view, view.tasks))  # type: ignore[arg-type]

    return await told.crew.writer.read(read)


async def bodies(told: Told, ending: str) -> list[bytes]:
    """The bodies of the artifacts whose names end like this."""
    refs = await told.crew.writer.read(lambda store: store.list_artifacts(told.run.id))
    hashes = [ref.sha256 for ref in refs if ref.name.endswith(ending)]
    return await told.crew.writer.read(lambda store: [store.read_artifact(each) for each in hashes])


async def test_a_rejected_call_of_megabytes_is_kept_whole_and_not_sent_with_every_later_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [
        use("no_such_tool", text=FIVE_MB),
        use("submit_result", summary="too much", data={"n": FIVE_MB}),
        Reply(
            calls=(ToolUse(name="submit_result", arguments={"summary": "w" * 200_000}),),
            fault=Fault.HALF_TOOL_CALL,
        ),
        use("submit_result", summary=FIVE_MB, data={"n": 1}),
    ]

    def script(said: Conversation) -> Reply:
        # By what the model was shown: it may be asked again after its conversation was shortened.
        return replies[min(len(said.tool_results), len(replies) - 1)]

    async with played(
        tmp_path, monkeypatch, script, result=WantedResult(schema=SCHEMA, mode="strict")
    ) as told:
        assert told.run.state is RunState.COMPLETED
        [result] = await told.results()
        assert (result.summary, result.data, result.flags) == (FIVE_MB, {"n": 1}, ())
        rejected = await told.events("result.rejected")
        assert [event.data["path"] for event in rejected] == ["data.n", ""]
        sizes = [len(json.dumps(request.body)) for request in told.model.requests]
        assert max(sizes) < 60_000
        assert "artifact:" in str(told.model.requests[-1].conversation.messages)
        [refused] = await bodies(told, "-no_such_tool.json")
        assert json.loads(refused) == {"text": FIVE_MB}
        whole = [
            json.loads(body) for body in await bodies(told, "-submit_result.json") if b"too much" in body
        ]
        assert whole == [{"summary": "too much", "data": {"n": FIVE_MB}}]
        assert len(await document_of(told)) < 20_000


async def test_an_error_and_a_text_of_megabytes_are_kept_whole_and_shown_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [Reply(text="word " * 600_000), use("submit_result", error=FIVE_MB)]
    async with played(tmp_path, monkeypatch, lambda _: replies.pop(0)) as told:
        assert told.run.state is RunState.FAILED
        assert told.run.cause is not None
        assert len(told.run.cause.message) < 1_000
        [result] = await told.results()
        assert result.error == FIVE_MB
        assert len(told.model.requests) == 2  # the second, of 3 MB, is taken at once
        document = await document_of(told)
        assert len(document) < 20_000
        assert '"left_out": ["summary", "error"]' in document
