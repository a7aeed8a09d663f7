"""What the engine's tests share."""

from pathlib import Path

import pytest

from crew_plugin.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(root=tmp_path, state_dir=tmp_path / "state")
