"""Arguments as sloppy models write them."""

import contextlib
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, Field

from crew_plugin.errors import CallerError, InvalidValue
from crew_tools.params import LooseList, Params, Skills, parse


class Item(Params):
    goal: str
    agent: str | None = None


class Sample(Params):
    run_id: str = "last"
    goal: str | None = None
    limit: int = Field(default=50, ge=1, le=200)
    force: bool = False
    kind: Literal["agent", "team"] | None = None
    tasks: Annotated[list[Item], LooseList] = Field(default_factory=list[Item])
    skill: Skills = None
    background: bool = Field(default=False, validation_alias=AliasChoices("async", "background"))


def read(**arguments: Any) -> Sample:
    return parse(Sample, arguments).params


@pytest.mark.parametrize("unset", ["", "  ", None, [], {}, "null", "None", "undefined"])
def test_what_means_nothing_counts_as_unset(unset: object) -> None:
    assert read(run_id=unset, goal=unset, limit=unset, force=unset, kind=unset, tasks=unset, skill=unset) == (
        Sample()
    )


def test_numbers_and_truth_values_may_be_text() -> None:
    sample = read(limit="7", force="true", run_id=12345, **{"async": "True"})
    assert (sample.limit, sample.force, sample.run_id, sample.background) == (7, True, "12345", True)
    assert read(limit=7.0, force="0").limit == 7


def test_keys_may_be_written_in_other_ways() -> None:
    sample = read(runId="a", async_=True, kind="team")
    assert (sample.run_id, sample.background, sample.kind) == ("a", True, "team")
    assert read(**{"run-id": "b", "background": "yes"}).run_id == "b"


def test_unknown_keys_are_dropped_and_named_but_those_of_other_actions_are_not() -> None:
    parsed = parse(Sample, {"limit": 3, "nonsense": 1, "topic": "x", "empty": ""}, elsewhere=["topic"])
    assert parsed.dropped == ("nonsense",)
    assert parsed.details() == {"ignored_parameters": ["nonsense"]}


def test_a_list_may_be_json_text_or_a_single_thing() -> None:
    expected = [Item(goal="a"), Item(goal="b", agent="explorer")]
    assert (
        read(tasks='[{"goal": "a", "agent": ""}, {"goal": "b", "agent": "explorer", "x": 1}]').tasks
        == expected
    )
    assert read(tasks={"goal": "a"}).tasks == expected[:1]
    assert read(tasks=[{"goal": "a"}, None, {}]).tasks == expected[:1]


@pytest.mark.parametrize(
    "goal", ['["a", "b"]', '{"goal": 1}', "{goal}", "---\nname: x\n---\n", "🐙 " * 10, " x "]
)
def test_text_is_taken_literally(goal: str) -> None:
    assert read(goal=goal).goal == goal


def test_a_megabyte_of_text_is_taken_whole() -> None:
    goal = "äöü\n" * 250_000
    assert read(goal=goal).goal == goal


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a, b,", ("a", "b")),
        (["a", "b"], ("a", "b")),
        ('["a"]', ("a",)),
        (False, False),
        ("false", False),
        (True, None),
        ("true", None),
    ],
)
def test_skills_come_as_text_list_or_truth_value(value: object, expected: object) -> None:
    assert read(skill=value).skill == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "workflow"}, "kind must be one of: agent, team; got 'workflow'"),
        ({"limit": 0}, "limit must be a whole number from 1 to 200; got 0"),
        ({"limit": "many"}, "limit must be a whole number from 1 to 200; got 'many'"),
        ({"force": "perhaps"}, "force must be true or false; got 'perhaps'"),
        ({"goal": ["x"]}, "goal must be text; got ['x']"),
        ({"skill": 7}, "skill must be names of skills"),
        ({"skill": ",".join("x" * 40)}, "skill must be at most 32 names"),
        ({"tasks": "[1"}, "tasks must be a list; the text given is not valid JSON"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(**arguments)
    assert str(caught.value).startswith(message)


def test_what_is_missing_inside_a_list_is_named() -> None:
    with pytest.raises(CallerError, match=r"tasks\[1\]\.goal is needed"):
        read(tasks=[{"goal": "a"}, {"agent": "x"}])


def test_several_problems_are_told_at_once() -> None:
    with pytest.raises(CallerError, match=r"limit must be .*; kind must be"):
        read(limit=0, kind="x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # the machine may be busy
@given(st.dictionaries(st.sampled_from([*Sample.spellings(), "x", "run-id", ""]), json_values))
def test_any_arguments_are_understood_or_refused_for_the_caller(arguments: dict[str, Any]) -> None:
    with contextlib.suppress(CallerError):
        parse(Sample, arguments)
