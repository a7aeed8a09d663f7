"""Nothing edits a folder in which `.freeze` lies; with the word `all` in it, no run starts there."""

from pathlib import Path

from crew_plugin.hookspecs import RunEnded, RunStarting, TaskEnded, TaskStarting, Verdict, hookimpl

__all__ = ["Freeze"]

EDITORS = frozenset({"executor"})


class Freeze:
    """One object for each crew. Several runs may ask it at once, so it keeps its notes by run."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}

    @hookimpl
    def before_run_start(self, event: RunStarting) -> Verdict | None:
        """Refuse every run of a folder that is frozen whole."""
        folder = Path(event.cwd)
        self._folders[event.run_id] = folder
        sign = folder / ".freeze"
        if sign.exists() and sign.read_text(encoding="utf-8").strip() == "all":
            return Verdict(allow=False, reason=f"{folder} is frozen; remove {sign.name} to go on")
        return None

    @hookimpl
    async def before_task_start(self, event: TaskStarting) -> Verdict | None:
        """Skip the tasks of agents that edit; a hook may be async, and then it must not block."""
        if event.agent in EDITORS and (self._folders[event.run_id] / ".freeze").exists():
            return Verdict(allow=False, reason=f"{event.agent} may not change a frozen folder")
        return None

    @hookimpl
    def after_task_end(self, event: TaskEnded) -> None:
        """Keep a line about each task; a plain function runs on a thread and may write files."""
        self._note(event.run_id, f"{event.key} {event.state}: {event.cause or event.summary}")

    @hookimpl
    def after_run_end(self, event: RunEnded) -> None:
        """Keep a line about the run and forget it."""
        self._note(event.run_id, f"run {event.state}")
        self._folders.pop(event.run_id, None)

    def _note(self, run_id: str, line: str) -> None:
        with (self._folders[run_id] / "crew.log").open("a", encoding="utf-8") as log:
            log.write(f"{run_id} {line}\n")
