"""A crew for the tests of the tools."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.tools.scripted import Scripted, scripted_crew


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's folder, by its real name."""
    return tmp_path.resolve()


@pytest.fixture
async def scripted(root: Path, anyio_backend: str) -> AsyncIterator[Scripted]:
    async with scripted_crew(root) as made:
        yield made
