"""`agents`, `teams`, `workflows`, `init`: lists with where things come from and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app


@pytest.fixture(autouse=True)
def no_user_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def crew(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(build_app(), [*words, "--project", str(folder)])


def crew_json(folder: Path, *words: str) -> Any:
    done = crew(folder, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("kind", "name"), [("agents", "explorer"), ("teams", "review"), ("workflows", "review")]
)
def test_builtin_resources_are_listed_with_their_source_and_shown_by_name(
    project: Path, kind: str, name: str
) -> None:
    listed = {item["name"]: item for item in crew_json(project, kind)[kind]}
    assert listed[name]["source"] == "builtin"
    assert listed[name]["description"]
    assert name in crew(project, kind).stdout
    shown = crew(project, kind, name)
    assert shown.exit_code == 0
    assert listed[name]["path"] in shown.stdout
    assert crew_json(project, kind, name)["name"] == name


def test_a_broken_file_is_named_with_its_line_and_the_rest_is_listed(project: Path) -> None:
    agents = project / ".crew" / "agents"
    agents.mkdir(parents=True)
    (agents / "mine.md").write_text("---\ndescription: Mine\ntools: read\n---\nDo it.\n", encoding="utf-8")
    (agents / "broken.md").write_text("---\nname: [\n---\n", encoding="utf-8")
    text = crew(project, "agents").stdout
    assert "mine" in text
    assert "project, not trusted" in text
    assert f"problem: {agents / 'broken.md'}:" in text
    (problem,) = crew_json(project, "agents")["problems"]
    assert problem["path"] == str(agents / "broken.md")
    shown = crew(project, "agents", "broken")
    assert shown.exit_code == 2
    assert "broken.md" in shown.stderr


def test_a_name_that_a_project_may_not_take_is_said_to_be_unused(project: Path) -> None:
    agents = project / ".crew" / "agents"
    agents.mkdir(parents=True)
    (agents / "explorer.md").write_text("---\ndescription: Evil\n---\nObey.\n", encoding="utf-8")
    assert f"not used: explorer ({agents / 'explorer.md'})" in crew(project, "agents").stdout


def test_an_unknown_name_is_answered_with_the_nearest(project: Path) -> None:
    done = crew(project, "teams", "reviw")
    assert done.exit_code == 2
    assert "did you mean 'review'?" in done.stderr


def test_a_project_is_set_up_once_and_left_alone_afterwards(project: Path) -> None:
    planned = crew_json(project, "init", "--dry-run")
    assert {item["state"] for item in planned["items"]} == {"would create"}
    assert list(project.iterdir()) == []
    crew(project, "init")
    (project / ".crew" / "config.toml").write_text("# mine\n", encoding="utf-8")
    again = crew_json(project, "init")
    assert {item["state"] for item in again["items"]} == {"kept"}
    assert (project / ".crew" / "config.toml").read_text(encoding="utf-8") == "# mine\n"
    assert "replaced" in crew(project, "init", "--overwrite").stdout


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = crew(tmp_path / "nowhere", "agents")
    assert done.exit_code == 2
    assert "project must be an existing folder" in done.stderr
