"""`crew demo`: what a new user types first."""

import re
import shutil
from pathlib import Path

import pytest

from tests.cli.terminal import crew, typed
from tests.hosts.bub_terminal import BubHome

pytestmark = [pytest.mark.bub, pytest.mark.timeout(240)]


def test_the_demo_needs_no_key_reviews_real_files_and_says_what_to_type_next(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    done = crew(home, "demo", env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[0].startswith("copying this package's source")
    assert [line for line in said if "BUB_MODEL and BUB_API_KEY" in line] == [
        "no model is configured: a scripted stand-in answers; BUB_MODEL and BUB_API_KEY make it a real model"
    ]
    (folder,) = tmp_path.glob("crew-demo-*")
    assert (folder / ".git").is_dir() or shutil.which("git") is None
    quoted = re.search(r"- (crew_\w+/\S+\.py):(\d+): `(.+)`", done.stdout)
    assert quoted is not None, done.stdout
    line = (folder / quoted[1]).read_text(encoding="utf-8").splitlines()[int(quoted[2]) - 1]
    assert quoted[3] in line
    assert "tasks: 4 completed" in done.stdout
    commands = re.findall(r"^  (\S*crew .+)$", done.stdout, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        again = typed(home, command)
        assert (again.returncode, again.stderr) == (0, "")
    assert not (home.project / ".crew").exists()
