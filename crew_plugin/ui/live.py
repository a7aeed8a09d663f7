"""A run as a tree on a terminal, redrawn while it goes on. Needs rich; light commands do not.

One line per task whatever the width: columns that do not fit are left out, cells that do not fit
end in an ellipsis, and tasks that do not fit are counted.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crew_plugin.models.records import EventRecord
from crew_plugin.models.states import TaskState
from crew_plugin.ui.text import one_line, seconds_text, task_note, tokens_text
from crew_plugin.ui.views import DRY_RUN, LOST, RunView, TaskView

__all__ = ["Doing", "RunTree", "live_display"]

_STYLES: Final = {
    TaskState.QUEUED: "dim",
    TaskState.RUNNING: "cyan",
    TaskState.WAITING: "yellow",
    TaskState.COMPLETED: "green",
    TaskState.NEEDS_ATTENTION: "yellow",
    TaskState.FAILED: "red",
    TaskState.CANCELLED: "magenta",
    TaskState.SKIPPED: "dim",
    LOST: "red",
    DRY_RUN: "blue",
}
_SIGNS: Final = {
    TaskState.QUEUED: "·",
    TaskState.WAITING: "?",
    TaskState.COMPLETED: "✓",
    TaskState.NEEDS_ATTENTION: "!",
    TaskState.FAILED: "✗",
    TaskState.CANCELLED: "■",
    TaskState.SKIPPED: "-",
    LOST: "✗",
    DRY_RUN: "○",
}
_PLAIN_SIGNS: Final = {"○": "o", "·": ".", "✓": "+", "✗": "x", "■": "#"}
_SPIN: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_SPIN: Final = "|/-\\"
_WIDE: Final = 76
_MIDDLE: Final = 56
# Which tasks stay when there are more than lines: what moves, what went wrong, what is next.
_IMPORTANCE: Final = (
    TaskState.RUNNING,
    TaskState.WAITING,
    LOST,
    TaskState.FAILED,
    TaskState.NEEDS_ATTENTION,
    TaskState.CANCELLED,
    TaskState.QUEUED,
    TaskState.COMPLETED,
    DRY_RUN,
    TaskState.SKIPPED,
)


class Doing:
    """What each session is doing, folded from events as they come."""

    def __init__(self) -> None:
        self._tools: dict[str, dict[str, str]] = {}
        self._last: dict[str, str] = {}

    def note(self, event: EventRecord) -> None:
        """Take one event into account."""
        if event.task_id is None:
            return
        if event.type == "session.tool_started":
            tool, target = str(event.data.get("tool", "")), str(event.data.get("target", ""))
            self._last[event.task_id] = f"{tool} {target}".strip()
            self._tools.setdefault(event.task_id, {})[tool] = self._last[event.task_id]
        elif event.type == "session.tool_ended":
            self._tools.get(event.task_id, {}).pop(str(event.data.get("tool", "")), None)
        elif event.type == "session.tool_progress":
            tool = str(event.data.get("tool", ""))
            self._tools.setdefault(event.task_id, {})[tool] = f"{tool} {event.data.get('text', '')}"
        elif event.type == "session.retrying":
            self._tools[event.task_id] = {
                "": f"model call failed, trying again: {event.data.get('error', '')}"
            }
        elif event.type == "session.provider_wait":
            self._tools[event.task_id] = {"": str(event.data.get("reason", ""))}
        elif event.type in ("session.model_answered", "session.closed", "task.started"):
            self._tools.pop(event.task_id, None)

    def text(self, task_id: str) -> str:
        """The newest thing it does; while it waits for its model, what it did last."""
        tools = self._tools.get(task_id)
        if tools:
            return list(tools.values())[-1]
        return f"thinking, after {self._last[task_id]}" if task_id in self._last else ""


class RunTree:
    """One picture of a run."""

    def __init__(
        self,
        view: RunView,
        *,
        doing: Mapping[str, str] | None = None,
        now: float,
        tick: int = 0,
        footer: str = "",
        max_lines: int | None = None,
    ) -> None:
        self._view = view
        self._doing = doing or {}
        self._now = now
        self._tick = tick
        self._footer = footer
        self._max_lines = max_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, plain = options.max_width, options.ascii_only
        rows, hidden = self._rows()
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True, width=4)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(10, width // 3))
        if width >= _WIDE:
            table.add_column(no_wrap=True, overflow="ellipsis", style="dim", max_width=20)
        table.add_column(no_wrap=True, justify="right", width=7)
        if width >= _MIDDLE:
            table.add_column(no_wrap=True, justify="right", style="dim", width=7)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for index, task in enumerate(rows):
            last = index == len(rows) - 1 and not hidden
            table.add_row(*self._cells(task, width=width, plain=plain, last=last))
        parts: list[Table | Text] = [self._head(width), table]
        if hidden:
            parts.append(Text(f"{_branch(last=True, plain=plain)}  {_more(hidden)}", style="dim"))
        if self._footer:
            parts.append(Text(self._footer, style="dim"))
        for part in parts:
            if isinstance(part, Text):
                part.no_wrap = True
                part.overflow = "ellipsis"
        yield Group(*parts)

    def _head(self, width: int) -> Text:
        row = self._view.row
        used = tokens_text(self._view.usage)
        head = Text()
        head.append(row.team if row.team == row.workflow else f"{row.team}/{row.workflow}", style="bold")
        head.append(f"  {row.shown_state}", style=_style(row.shown_state))
        end = row.ended_at or self._now
        head.append(f"  {seconds_text(max(0.0, end - (row.started_at or row.created_at)))}")
        if used and width >= _MIDDLE:
            head.append(f"  {used}", style="dim")
        if width >= _WIDE:
            head.append(f"  {row.id}", style="dim")
            head.append(f"  {one_line(row.goal, width)}", style="italic dim")
        return head

    def _rows(self) -> tuple[Sequence[TaskView], Sequence[TaskView]]:
        tasks = self._view.tasks
        if self._max_lines is None or len(tasks) <= self._max_lines:
            return tasks, ()
        ranked = sorted(tasks, key=lambda task: _IMPORTANCE.index(task.shown_state))
        kept = {task.id for task in ranked[: max(1, self._max_lines - 1)]}
        return (
            [task for task in tasks if task.id in kept],
            [task for task in tasks if task.id not in kept],
        )

    def _cells(self, task: TaskView, *, width: int, plain: bool, last: bool) -> list[Text]:
        style = _style(task.shown_state)
        cells = [
            Text.assemble((_branch(last=last, plain=plain), "dim"), " ", (self._sign(task, plain), style)),
            Text(one_line(task.key, 60), style="bold" if task.state is TaskState.RUNNING else ""),
        ]
        if width >= _WIDE:
            cells.append(Text(one_line(task.agent, 40)))
        cells.append(Text(seconds_text(self._elapsed(task)), style="dim"))
        if width >= _MIDDLE:
            cells.append(Text(_tokens(task)))
        cells.append(Text(self._note(task), style=style if task.cause else "dim"))
        return cells

    def _sign(self, task: TaskView, plain: bool) -> str:
        if task.shown_state == TaskState.RUNNING:
            frames = _PLAIN_SPIN if plain else _SPIN
            return frames[self._tick % len(frames)]
        sign = _SIGNS[task.shown_state]
        return _PLAIN_SIGNS.get(sign, sign) if plain else sign

    def _elapsed(self, task: TaskView) -> float | None:
        if task.started_at is None or task.ended_at is not None or task.shown_state == LOST:
            return task.elapsed
        return max(0.0, self._now - task.started_at)

    def _note(self, task: TaskView) -> str:
        if task.shown_state == TaskState.RUNNING and task.retry_at is None:
            return one_line(self._doing.get(task.id, "") or task.now or "thinking", 160)
        return task_note(task) or task.shown_state


def live_display(console: Console) -> Live:
    """A live area on a terminal. It is redrawn only when told to, and gone when it is left."""
    return Live(
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    )


def _style(state: str) -> str:
    return _STYLES.get(state, "bold")


def _branch(*, last: bool, plain: bool) -> str:
    if plain:
        return "`-" if last else "|-"
    return "└─" if last else "├─"


def _tokens(task: TaskView) -> str:
    total = task.usage.input + task.usage.output
    if not total:
        return ""
    return (
        str(total) if total < 1000 else f"{total / 1000:.1f}k" if total < 1_000_000 else f"{total / 1e6:.1f}M"
    )


def _more(tasks: Sequence[TaskView]) -> str:
    states = [task.shown_state for task in tasks]
    return f"{len(tasks)} more: " + ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
