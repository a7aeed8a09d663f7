"""What is made from the settings says what the settings are."""

import json
import re
import tomllib
from pathlib import Path

from jsonschema import Draft202012Validator

from crew_plugin.config import Settings, load_settings
from crew_plugin.config.describe import rows
from crew_plugin.config.document import commented_config, configuration_page, json_schema

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_page_of_the_documentation_is_the_one_made_from_the_settings() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == configuration_page(), "write it anew: python -m crew_plugin.config page"


def test_every_setting_has_a_sentence_and_says_what_a_project_may_do() -> None:
    for row in rows():
        assert row.sentence.endswith("."), row.key
        assert row.allowed, row.key
        assert row.project_may in ("lower", "tighten", "set", "nothing"), row.key


def test_a_commented_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(commented_config(), encoding="utf-8")
    settings = load_settings(None, user_root=tmp_path)
    assert settings.model_dump() == Settings().model_dump()
    assert settings.warnings == ()


def test_without_its_comment_signs_it_says_the_defaults(tmp_path: Path) -> None:
    lines = [
        line.removeprefix("# ")
        for line in commented_config().splitlines()
        if (" = " in line and "(not set)" not in line) or line.startswith(("[", "# ["))
    ]
    (tmp_path / "config.toml").write_text("\n".join(lines), encoding="utf-8")
    settings = load_settings(None, user_root=tmp_path)
    assert settings.warnings == ()
    examples = re.compile(r"^(agents\.overrides|mcp\.servers)\.")
    assert {key for key in settings.sources if not examples.match(key)} == {
        row.key for row in rows() if row.default is not None and "<name>" not in row.key
    }
    changed = settings.model_copy(update={"agents": Settings().agents, "mcp": Settings().mcp})
    assert changed.model_dump() == Settings().model_dump()


def test_every_key_is_in_the_commented_file() -> None:
    text = commented_config()
    for row in rows():
        assert f"# {row.key.rpartition('.')[2]} = " in text


def test_the_json_schema_takes_what_the_settings_take() -> None:
    schema = json.loads(json_schema())
    Draft202012Validator.check_schema(schema)
    good = tomllib.loads("model = 'x'\n[limits]\nwidth = 3\n[agents.overrides.a]\ntools = ['read']")
    assert Draft202012Validator(schema).is_valid(good)
    assert not Draft202012Validator(schema).is_valid({"limits": {"width": 0}})
    assert not Draft202012Validator(schema).is_valid({"modl": "x"})
