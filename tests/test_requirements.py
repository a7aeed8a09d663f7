"""Every requirement has tests, and every test that is named exists."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.named import named_tests

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = tomllib.loads((ROOT / "tests" / "requirements.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("ident", REQUIREMENTS)
def test_a_requirement_is_a_sentence_with_tests_that_exist(ident: str) -> None:
    about = REQUIREMENTS[ident]
    assert set(about) == {"says", "tests"}
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", ident)
    assert about["says"].endswith(".")
    assert about["tests"]
    assert set(about["tests"]) - named_tests() == set()
    assert len(about["tests"]) == len(set(about["tests"]))


def test_no_two_requirements_say_the_same() -> None:
    says = [about["says"] for about in REQUIREMENTS.values()]
    assert len(says) == len(set(says))
