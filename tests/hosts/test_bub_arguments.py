"""Arguments of calls that no JSON reader takes."""

import json

import pytest

from crew_hooks.bub.compat.runner import MALFORMED, as_object
from crew_hooks.bub.toolset import _parsed

DEEP = '{"data": ' + "[" * 200_000 + "]" * 200_000 + "}"


@pytest.mark.parametrize("written", [DEEP, '{"a": ', "[1]", "prose"])
def test_what_cannot_be_read_is_kept_as_it_was_written(written: str) -> None:
    assert json.loads(as_object(written)) == {MALFORMED: written}


@pytest.mark.parametrize("written", [DEEP, '{"a": '])
def test_what_cannot_be_read_is_the_same_for_whoever_looks_for_its_call(written: str) -> None:
    assert _parsed(written) == {MALFORMED: written}
