"""What `crew run` refuses before it loads a host or writes a file, and how it says so."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from crew_plugin.cli.app import build_app
from crew_plugin.cli.screen import stderr_into
from crew_plugin.errors import StateUnwritable
from tests.cli.terminal import CREW, crew
from tests.hosts.bub_terminal import BubHome


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    place = tmp_path / "project"
    place.mkdir()
    (place / "app.py").write_text("print(1)\n", encoding="utf-8")
    monkeypatch.chdir(place)
    return place


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app(), ["run", *words])


@pytest.mark.parametrize("cwd", ["nowhere", "app.py"])
def test_a_working_folder_that_is_none_is_refused_and_never_made(folder: Path, cwd: str) -> None:
    done = run("--cwd", cwd, "look around")
    assert done.exit_code == 2
    assert f"--cwd must be an existing folder; got '{cwd}'" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["app.py"]


@pytest.mark.parametrize("width", ["0", "-3"])
def test_a_width_that_lets_nothing_run_is_refused(folder: Path, width: str) -> None:
    done = run("--width", width, "look around")
    assert done.exit_code == 2
    assert f"--width must be at least 1; got {width}" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["app.py"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--schema", "{"), "--schema must be JSON; it is not: Expecting property name"),
        (("--schema", "nope.json"), "--schema must be a file, or a JSON object (No such file or directory)"),
        (("--schema", "app.py"), "--schema must be JSON; app.py is not: Expecting value"),
        (("--schema", "list.json"), "--schema must be a JSON object, and list.json is none"),
        (("--schema", "bytes.json"), "--schema must be a file, or a JSON object (it is no text)"),
        (("--schema-mode", "lax"), "--schema-mode must be one of: permissive, strict; got 'lax'"),
        (("--model", " "), "--model must be a model's name; got ' '"),
    ],
)
def test_a_schema_or_a_model_that_is_none_is_refused(folder: Path, words: tuple[str, ...], said: str) -> None:
    (folder / "list.json").write_text("[1]", encoding="utf-8")
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00")
    done = run(*words, "look around")
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (folder / ".crew").exists()


def test_a_goal_that_is_no_text_is_refused_in_one_line(folder: Path) -> None:
    done = subprocess.run(
        [CREW, "run", b"\xff\xfe look"], cwd=folder, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"crew: GOAL must be text in UTF-8")


def test_a_log_that_cannot_be_written_is_the_states_problem_and_standard_error_stays(
    folder: Path,
) -> None:
    before = os.fstat(2)
    with (
        pytest.raises(StateUnwritable, match="Is a directory"),
        stderr_into(folder),
    ):
        pass
    assert os.path.samestat(before, os.fstat(2))


def test_a_state_folder_without_room_for_logs_is_one_clear_line(folder: Path) -> None:
    state = folder / "state"
    state.mkdir()
    (state / "logs").write_text("in the way", encoding="utf-8")
    done = run("--state-dir", str(state), "look around")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"crew: cannot write the crew's state at '{state}/logs'")
    assert "--state-dir" in line


def test_a_working_folder_means_the_same_to_every_task_and_is_no_project_of_its_own(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    (home.project / "part").mkdir()
    (home.project / "port.json").write_text('{"properties": {"port": {"type": "uint16"}}}', encoding="utf-8")
    asked = ("--schema", "port.json", "--schema-mode", "strict", "--dry-run", "--quiet", "look")
    done = crew(home, "run", "--agent", "explorer", "--cwd", "part", *asked)
    assert done.returncode == 0, done.stderr
    prompt = json.dumps(json.loads(crew(home, "show", "last", "--prompt", "--json").stdout))
    assert f"Your working folder is {home.project / 'part'};" in prompt
    assert "uint16" in prompt
    assert not (home.project / "part" / ".crew").exists()
    wrong = crew(home, "run", "--schema", '{"properties": {"a": {"type": "strin"}}}', "--dry-run", "look")
    assert wrong.returncode == 2
    assert "the schema that was given cannot be run" in wrong.stderr


def test_a_setting_that_is_ignored_is_said_before_the_run(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    (home.project / ".crew").mkdir()
    (home.project / ".crew/config.toml").write_text("[limits]\nwidht = 3\n", encoding="utf-8")
    done = crew(home, "run", "--agent", "explorer", "--dry-run", "look")
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("warning: ")
    assert "limits.widht is no setting; did you mean 'width'?" in first
