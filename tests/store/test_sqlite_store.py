"""The SQLite store: the contract, and what is its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crew_plugin.project import Project, find_project
from crew_plugin.store.port import RunStore
from crew_plugin.store.sqlite import SqliteStore
from tests.contracts.run_store import RunStoreContract, dead_owner, live_owner

__all__ = ["dead_owner", "live_owner"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return find_project(explicit=tmp_path)


@pytest.fixture
def store(project: Project) -> Iterator[RunStore]:
    opened = SqliteStore.open(project)
    yield opened
    opened.close()


@pytest.fixture
def reopen(project: Project) -> Iterator[Callable[[], RunStore]]:
    opened: list[SqliteStore] = []

    def again() -> RunStore:
        opened.append(SqliteStore.open(project, read_only=True))
        return opened[-1]

    yield again
    for each in opened:
        each.close()


class TestSqliteStore(RunStoreContract):
    """The contract."""
