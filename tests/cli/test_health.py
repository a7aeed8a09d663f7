"""`crew health` looks at a supervisor from another process's point of view."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crew_plugin.cli.health import health
from crew_plugin.cli.place import Place
from crew_plugin.errors import InvalidValue
from crew_plugin.models.states import RunState
from crew_plugin.store.sqlite import SqliteStore
from tests.ui.runs import Book, open_book, play, project_in


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    store = SqliteStore.open(project_in(tmp_path))
    book = open_book(store)
    play(book)
    yield book
    store.close()


def _asked(book: Book, *, json: bool = True, watch: bool = False, stalled_after: int = 10) -> int:
    place = Place(project=str(book.store.path.parents[2]))
    return health(place=place, json=json, run="last", watch=watch, stalled_after=stalled_after)


def test_a_run_whose_sessions_showed_signs_of_life_is_told_at_once(
    book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _asked(book) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["supervisor"] == "alive"
    assert [session["task"] for session in told["sessions"]] == ["explore", "code", "security"]
    assert told["sessions"][1]["doing"] == "in read login.py"


def test_a_watch_ends_with_the_run_and_tells_what_changed(
    book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    book.end(RunState.CANCELLED)
    assert _asked(book, watch=True, json=False) == 0
    assert "supervisor: none, the run is over" in capsys.readouterr().out


def test_a_supervisor_that_lives_and_renews_nothing_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(SqliteStore.open(project_in(tmp_path))) as store:
        book = open_book(store)  # owned by this process, which does not renew it
        assert _asked(book, stalled_after=1) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["supervisor"], told["shown_state"]) == ("stalled", "stalled")
    assert told["renewals_still_seconds"] >= 1


def test_no_time_at_all_is_refused(book: Book) -> None:
    with pytest.raises(InvalidValue):
        _asked(book, stalled_after=0)
