"""What every test of the suite shares."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Hosts run on asyncio, so that is where everything is tested."""
    return "asyncio"
