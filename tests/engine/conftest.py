"""What the engine's tests share."""

from pathlib import Path

import pytest

from crew_plugin.project import Project
from tests.leftovers import no_task_is_left, nobody_listens, nothing_is_left

__all__ = ["no_task_is_left", "nobody_listens", "nothing_is_left"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(root=tmp_path, state_dir=tmp_path / "state")
