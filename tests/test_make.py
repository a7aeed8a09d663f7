"""What `make` does before there is anything to run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIND = Path(__file__).resolve().parent.parent / ".make" / "find-python"
pytestmark = pytest.mark.skipif(not FIND.exists(), reason="needs a checkout")


def find(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `find-python` says where only the programs in `folder` are on PATH, beside the system's tools."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("ls", "sort"):
        if not (tools / name).exists():
            (tools / name).symlink_to(Path("/usr/bin", name))
    path = os.pathsep.join((str(folder / "bin"), str(tools)))
    return subprocess.run(
        ["/bin/sh", FIND],
        env={"PATH": path, "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def test_an_old_python_on_the_path_is_passed_over_for_one_under_pyenv(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python3", "exit 1")
    good = tmp_path / "pyenv" / "versions" / "3.12.9" / "bin" / "python3"
    program(good, f'exec "{sys.executable}" "$@"')
    done = find(tmp_path, PYENV_ROOT=str(tmp_path / "pyenv"))
    assert (done.returncode, done.stdout.strip()) == (0, str(good))


def test_a_shim_of_pyenv_that_names_an_inactive_version_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    program(tmp_path / "bin" / "python3", f'exec "{sys.executable}" "$@"')
    done = find(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable)


def test_without_any_python_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    done = find(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "needs Python 3.12 or newer" in done.stderr
    assert "PYTHON=" in done.stderr
