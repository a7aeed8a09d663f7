"""What every test of the suite shares."""

from typing import Final

import pytest

FIRST: Final = ("tests/faults/", "tests/cli/", "tests/hosts/")
"""What takes long, the slowest tests first: begun last, it would keep one process while the others idle."""


@pytest.fixture
def anyio_backend() -> str:
    """Hosts run on asyncio, so that is where everything is tested."""
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the longer loops too")
    parser.addoption("--seed", type=int, default=None, help="repeat the choices of a kill loop")
    parser.addoption("--soak-seconds", type=float, default=8.0, help="how long waves of runs go on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((n for n, each in enumerate(FIRST) if item.nodeid.startswith(each)), 9))
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="a longer loop: chosen with --long")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)
