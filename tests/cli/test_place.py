"""What is printed can be typed."""

import os
import sys
from pathlib import Path

import pytest

from crew_plugin.cli.place import program


def script(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("name", "typed"), [("crew", "crew"), ("bub", "bub crew")])
def test_a_program_on_the_path_is_typed_by_its_name(
    name: str, typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script(tmp_path / "bin", name)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    monkeypatch.setattr(sys, "argv", [str(path)])
    assert program() == typed


def test_a_script_below_this_folder_is_typed_by_its_way_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script(tmp_path / "bin", "crew")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "argv", [str(path)])
    assert program() == "bin/crew"


def test_a_program_of_another_name_is_called_crew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert program() == "crew"
