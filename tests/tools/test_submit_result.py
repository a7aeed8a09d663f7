"""`submit_result`: forgiving in form, and clear about what is wrong."""

from typing import Any

import pytest

from crew_plugin.host import ToolContext, ToolError, ToolOutput
from crew_plugin.session.contract import Accepted, ResultContract, Submission, Verdict
from crew_plugin.session.scope import SessionScope
from crew_tools.submit_result import submit_result_tool

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


class Gate:
    """A contract without a store."""

    def __init__(self, schema: dict[str, Any] | None = None) -> None:
        self.contract = ResultContract(schema)
        self.verdicts: list[Verdict] = []

    async def submit(self, submission: Submission) -> Verdict:
        self.verdicts.append(self.contract.accept(submission))
        return self.verdicts[-1]

    async def refuse(self, problem: str, written: str = "") -> Verdict:
        self.verdicts.append(self.contract.refuse(problem, written=written))
        return self.verdicts[-1]

    async def call(self, **arguments: Any) -> ToolOutput:
        scope: Any = SessionScope(
            context=None,  # type: ignore[arg-type]  # this tool does not look at it
            tools=(),
            cwd="/",
            schema=self.contract.schema,
            gate=self,
            mail=None,  # type: ignore[arg-type]  # nor at this
            asks=None,  # type: ignore[arg-type]  # nor at this
            read_artifact=None,  # type: ignore[arg-type]  # nor at this
        )
        return await submit_result_tool(scope).execute(arguments, ToolContext(session="s", call_id="c"))

    @property
    def result(self) -> Any:
        assert isinstance(self.verdicts[-1], Accepted)
        return self.verdicts[-1].result


async def test_an_accepted_result_ends_the_session() -> None:
    gate = Gate()
    output = await gate.call(summary="done", artifacts={"log": "text"})
    assert output.ends_session
    assert (gate.result.summary, gate.result.artifacts) == ("done", {"log": "text"})


@pytest.mark.parametrize("nothing", [None, "", "  ", "null", "None", {}, []])
async def test_what_sloppy_models_put_for_nothing_counts_as_nothing(nothing: Any) -> None:
    gate = Gate()
    extra = {} if isinstance(nothing, (dict, list)) else {"error": nothing}
    await gate.call(summary="done", data=nothing, artifacts=nothing, unknown_key=1, **extra)
    assert (gate.result.data, gate.result.artifacts, gate.result.error) == (None, {}, None)


async def test_falsy_data_is_data() -> None:
    for value in (0, False, 0.0):
        gate = Gate({"type": ["integer", "boolean", "number"]})
        await gate.call(summary="done", data=value)
        assert gate.result.data is value


async def test_hollow_data_beside_an_error_is_no_contradiction() -> None:
    gate = Gate(SCHEMA)
    await gate.call(summary="", data={}, error="no access")
    assert gate.result.error == "no access"


async def test_hollow_data_under_a_schema_is_told_what_it_lacks() -> None:
    with pytest.raises(ToolError, match="'n' is a required property"):
        await Gate(SCHEMA).call(summary="done", data={})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"summary": {"a": 1}}, "`summary` must be text; got an object"),
        ({"summary": "x", "error": ["no"]}, "`error` must be text; got a list"),
        ({"summary": "x", "artifacts": "a file"}, "`artifacts` must map names to texts"),
        ({"summary": "x", "artifacts": {"a": {"b": 1}}}, "`artifacts['a']` must be text; got an object"),
        ({"summary": "x", "data": {"n": 1}, "error": "no"}, "exclude each other"),
        ({}, "nothing in it"),
        ({"summary": "x", "data": {"rates": [1.5, float("nan")]}}, "NaN or Infinity"),
        ({"summary": "x", "data": float("-inf")}, "NaN or Infinity"),
    ],
)
async def test_a_wrong_value_is_told_what_is_right(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ToolError) as caught:
        await Gate().call(**arguments)
    assert told in str(caught.value)


async def test_wrong_values_count_towards_the_end_of_the_session() -> None:
    gate = Gate()
    for _ in range(5):
        with pytest.raises(ToolError):
            await gate.call(summary=["no text"])
    output = await gate.call(summary=["no text"])
    assert output.ends_session
    assert "without a result" in output.text


async def test_an_overridden_result_says_so() -> None:
    gate = Gate(SCHEMA)
    for _ in range(3):
        with pytest.raises(ToolError):
            await gate.call(summary="done", data={"n": "one"})
    assert "does not fit" in (await gate.call(summary="done", data={"n": "one"})).text


async def test_a_result_that_differs_from_its_parts_says_so() -> None:
    gate = Gate()
    await gate.call(type=["log"], data=["a"])
    await gate.call(type=["n"], data=1)
    output = await gate.call(data={"log": ["b"], "n": 2})
    assert "items of your earlier parts" in output.text
    assert "in place of earlier parts" in output.text
    assert output.details["flags"] == ["unchecked", "merged", "replaced"]
    assert gate.result.data == {"log": ["a", "b"], "n": 2}


@pytest.mark.parametrize(
    "schema", [None, SCHEMA, {"type": "array"}, {"anyOf": [{}]}, {"type": ["string", "null"]}]
)
def test_the_parameters_are_a_plain_object_that_every_provider_takes(schema: Any) -> None:
    scope: Any = SessionScope(
        context=None,  # type: ignore[arg-type]  # only the parameters are looked at
        tools=(),
        cwd="/",
        schema=schema,
        gate=Gate(),
        mail=None,  # type: ignore[arg-type]  # only the parameters are looked at
        asks=None,  # type: ignore[arg-type]  # only the parameters are looked at
        read_artifact=None,  # type: ignore[arg-type]  # only the parameters are looked at
    )
    parameters = submit_result_tool(scope).parameters
    assert parameters["type"] == "object"
    assert {"anyOf", "oneOf", "allOf", "not"}.isdisjoint(parameters)
    assert list(parameters["properties"]) == ["summary", "data", "artifacts", "error", "type"]
