"""The live tree, as a terminal of some size really shows it."""

import io
from collections.abc import Iterator
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import EventRecord, NewResult, NewRun, NewTask, Usage
from crew_plugin.models.states import RunState
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.ui.live import Doing, RunTree, live_display
from crew_plugin.ui.views import RunView, run_view
from tests.ui.runs import Book, open_book, play, project_in

NOW = 1_800_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(project_in(tmp_path))
    yield opened
    opened.close()


def screen_of(tree: RunTree, *, width: int, height: int = 24, encoding: str = "utf-8") -> list[str]:
    """Draw on a pretended terminal; its lines without the blank ones."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="\r\n")
    console = Console(
        file=file, force_terminal=True, width=width, height=height, markup=False, emoji=False, highlight=False
    )
    with live_display(console) as live:
        live.update(tree, refresh=True)
        file.flush()
        screen = pyte.Screen(width, height)
        pyte.ByteStream(screen).feed(raw.getvalue())
        return [line.rstrip() for line in screen.display if line.strip()]


def playing(store: SqliteStore, *, goal: str = "look at the login code") -> RunView:
    book = open_book(store, goal=goal)
    play(book)
    return run_view(store, book.run.id, now=NOW)


@pytest.mark.parametrize("width", [40, 55, 56, 75, 76, 80, 100, 120, 200])
def test_at_every_width_each_task_is_one_line_that_fits(store: SqliteStore, width: int) -> None:
    lines = screen_of(RunTree(playing(store), now=NOW, footer="Ctrl-C cancels"), width=width)
    assert len(lines) == 6
    assert lines[0].startswith("review  running")
    assert [line.split()[2][:4] for line in lines[1:5]] == ["expl", "code", "secu", "veri"]
    assert all(len(line) <= width for line in lines)
    assert lines[-1] == "Ctrl-C cancels"


def test_a_wide_screen_shows_agents_tokens_times_and_the_run(store: SqliteStore) -> None:
    view = playing(store)
    lines = screen_of(RunTree(view, now=NOW), width=160)
    assert view.id in lines[0]
    assert "14.3k in" in lines[0]
    assert "13.2k" in lines[1]
    assert "explorer" in lines[1]
    assert "Login is in login.py" in lines[1]


def test_a_narrow_screen_leaves_out_agents_first_and_then_tokens(store: SqliteStore) -> None:
    view = playing(store)
    middle = screen_of(RunTree(view, now=NOW), width=70)
    narrow = screen_of(RunTree(view, now=NOW), width=45)
    assert "reviewer" not in " ".join(middle)
    assert "13.2k" in middle[1]
    assert "13.2k" not in narrow[1]


def test_a_running_task_shows_its_tool_and_target_and_a_waiting_one_what_it_waits_for(
    store: SqliteStore,
) -> None:
    view = playing(store)
    code = view.tasks[1]
    lines = screen_of(RunTree(view, doing={code.id: "grep password"}, now=NOW), width=120)
    assert lines[2].endswith("grep password")
    assert lines[4].endswith("waits for code")


def test_more_tasks_than_lines_show_what_moves_and_count_the_rest(store: SqliteStore) -> None:
    tasks = [NewTask(key=f"t{n:02d}", title="", role="r", agent="a") for n in range(40)]
    run = store.create_run(
        NewRun(goal="g", team="many", workflow="parallel", cwd="/", spec="{}"), tasks, actor="operator"
    )
    lease = store.claim(run.id, current_owner())
    store.transition_run(lease, RunState.RUNNING, actor="supervisor")
    book = Book(store=store, run=run, lease=lease)
    for number in range(10):
        book.finish(book.start(f"t{number:02d}"), NewResult(summary="done"))
    book.start("t30")
    lines = screen_of(RunTree(run_view(store, run.id), now=NOW, max_lines=6), width=80, height=10)
    assert len(lines) == 7
    assert any(" t30 " in line for line in lines)
    assert "35 more: 10 completed, 25 queued" in lines[-1]


def test_a_terminal_without_unicode_gets_signs_it_can_show(store: SqliteStore) -> None:
    lines = screen_of(RunTree(playing(store, goal="plain"), now=NOW), width=75, encoding="ascii")
    assert lines[1].startswith("|- +")
    assert lines[4].startswith("`- .")


@pytest.mark.parametrize(
    "goal", ["[bold]not markup[/bold] :smile:", "\x1b[2J\x1b]0;x\x07gone", "日本語のゴール" * 30, "a\nb\r\nc"]
)
def test_texts_are_taken_literally_and_never_break_the_picture(store: SqliteStore, goal: str) -> None:
    lines = screen_of(RunTree(playing(store, goal=goal), now=NOW), width=120)
    assert len(lines) == 5
    if goal.startswith("[bold]"):
        assert "[bold]not markup[/bold] :smile:" in lines[0]


def test_a_finished_run_shows_its_causes_in_place_of_what_moves(store: SqliteStore) -> None:
    book = open_book(store)
    play(book)
    for task in ("code",):
        book.abandon(book.store.load_task(book.run.id, task).attempt_id or "", "gave up")
    book.say()
    lines = screen_of(RunTree(run_view(store, book.run.id), now=NOW), width=120)
    assert "no_result: it never called submit_result" in lines[2]
    assert lines[2].split()[1] == "!"


def event(kind: str, task: str = "t", **data: object) -> EventRecord:
    return EventRecord(
        seq=1,
        run_id="r",
        at=0.0,
        epoch=1,
        type=kind,
        actor="session",
        task_id=task,
        attempt_id=None,
        cause=None,
        data=data,
    )


def test_what_a_session_does_is_folded_from_its_events() -> None:
    doing = Doing()
    assert doing.text("t") == ""
    doing.note(event("session.tool_started", tool="read", target="a.py"))
    doing.note(event("session.tool_started", tool="grep", target="x"))
    assert doing.text("t") == "grep x"
    doing.note(event("session.tool_ended", tool="grep", ok=True))
    assert doing.text("t") == "read a.py"
    doing.note(event("session.model_answered"))
    assert doing.text("t") == "thinking, after grep x"
    doing.note(event("session.retrying", error="429"))
    assert doing.text("t") == "model call failed, trying again: 429"
    doing.note(event("session.model_answered"))
    assert doing.text("t") == "thinking, after grep x"


def test_elapsed_time_goes_on_between_two_looks_at_the_store(store: SqliteStore) -> None:
    book = open_book(store)
    attempt = book.start("explore")
    book.spend(attempt, Usage(input=1, calls=1))
    view = run_view(store, book.run.id)
    started = view.tasks[0].started_at
    assert started is not None
    early = screen_of(RunTree(view, now=started + 1), width=80)[1]
    late = screen_of(RunTree(view, now=started + 75), width=80)[1]
    assert "1.0s" in early
    assert "1m15s" in late


def test_a_cause_is_told_with_its_code(store: SqliteStore) -> None:
    book = open_book(store)
    cause = Cause(code=CauseCode.DEPENDENCY, message="explore left nothing")
    task = book.store.load_task(book.run.id, "verify")
    from crew_plugin.models.states import TaskState

    book.store.transition_task(book.lease, task.id, TaskState.SKIPPED, actor="supervisor", cause=cause)
    line = screen_of(RunTree(run_view(store, book.run.id), now=NOW), width=120)[4]
    assert "dependency: explore left nothing" in line
