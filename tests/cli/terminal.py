"""`crew` as a person runs it: to its end, or in a terminal with a screen to look at."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hosts.bub_terminal import BubHome
from tests.screen import WAIT, OnScreen

CREW = str(Path(sys.executable).parent / "crew")


def typed(home: BubHome, line: str) -> subprocess.CompletedProcess[str]:
    """Type a line into a shell in the project, as it was printed."""
    return subprocess.run(
        line,
        shell=True,
        cwd=home.project,
        env=home.env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=WAIT,
        check=False,
    )


def crew(
    home: BubHome, *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `crew` in the project to its end."""
    return subprocess.run(
        [CREW, *arguments],
        cwd=home.project,
        env={**home.env, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=WAIT,
        check=False,
    )


def document(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """The one JSON document that a command printed."""
    loaded = json.loads(done.stdout)
    assert isinstance(loaded, dict)
    return loaded


class Terminal(OnScreen):
    """A `crew` command on a screen of 110 by 50."""

    def __init__(
        self,
        home: BubHome,
        arguments: tuple[str, ...],
        *,
        width: int = 110,
        height: int = 50,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            command=(CREW, *arguments),
            cwd=home.project,
            env={**home.env, **(env or {})},
            width=width,
            height=height,
        )


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
