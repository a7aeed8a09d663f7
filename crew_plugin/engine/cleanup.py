"""What nothing owns any more: processes of dead supervisors, bodies that nothing refers to, and logs of
runs that are over or gone. It is looked for first, said, and then removed.

What belongs to a run that goes on, or to a supervisor that lives, is never among it.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crew_plugin.engine.cancel import whose
from crew_plugin.engine.forget import of_another
from crew_plugin.engine.orphans import Orphan, end_orphans, find_orphans
from crew_plugin.errors import CrewError, Forgotten, NotAllowed, UnknownName
from crew_plugin.models.records import ParentRef
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.project import Project
from crew_plugin.store.port import RunStore

__all__ = ["NOTHING", "Leftovers", "clean_up", "find_leftovers", "run_to_clean"]

NOTHING: Final = "nothing was left behind"
_TRACEBACK: Final = "crew-error-"
_DAY: Final = 86_400.0
"""How long the traceback of a failed command stays: its path was just told to somebody."""
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What is left behind, or what was removed of it."""

    processes: tuple[Orphan, ...] = ()
    logs: tuple[str, ...] = ()
    """Names of files in the folder of logs."""
    bodies: int = 0
    size: int = 0
    """Bytes of bodies and logs."""

    def __bool__(self) -> bool:
        return bool(self.processes or self.logs or self.bodies)

    def __str__(self) -> str:
        parts = [
            _part("end", len(self.processes), "process", "processes", "of dead supervisors"),
            _part("delete", len(self.logs), "log", "logs", "of runs that are over"),
            _part("delete", self.bodies, "body", "bodies", "that nothing refers to"),
        ]
        return ", ".join(part for part in parts if part) + f" ({self.size / 1e6:,.1f} MB)"

    def lines(self) -> Iterator[str]:
        """Each of it on a line of its own; very many are only counted."""
        yield from (f"process {each.pid}: {each.command}" for each in self.processes[:_SHOWN])
        yield from (f"log {name}" for name in self.logs[:_SHOWN])
        more = sum(max(0, len(some) - _SHOWN) for some in (self.processes, self.logs))
        if more:
            yield f"and {more:,} more"
        if self.bodies:
            yield _part("", self.bodies, "body", "bodies", "that nothing refers to")

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "processes": [
                {"pid": each.pid, "command": each.command, "session": each.session, "killed": each.killed}
                for each in self.processes
            ],
            "logs": list(self.logs),
            "bodies": self.bodies,
            "bytes": self.size,
        }


def _part(verb: str, number: int, one: str, many: str, which: str) -> str:
    what = one if number == 1 else many
    return f"{verb} {number:,} {what} {which}".strip() if number else ""


def run_to_clean(store: RunStore, name: str, caller: ParentRef | None, *, force: bool) -> str:
    """The id of the run after which is to be cleaned. Raises `NotAllowed` for one that has not ended,
    and for one of another session unless `force`."""
    try:
        run = store.load_run(name)
    except Forgotten:
        return name
    if run.state not in RUN_TERMINAL:
        raise NotAllowed(
            f"run {run.id} is {run.state}: nothing of it is removed before it has ended; cancel it first, or "
            "resume it if its process is gone"
        )
    if not force and (of_another(run, caller) if caller is not None else run.parent is not None):
        raise NotAllowed(f"nothing of run {run.id} is removed: {whose(run, 'remove it')}")
    return run.id


def find_leftovers(
    store: RunStore, project: Project, run_id: str | None = None, *, caller: ParentRef | None = None
) -> Leftovers:
    """What nothing owns any more, of one run where one is named. With `caller`, logs of runs that
    another session asked for are left out. Changes nothing."""
    found = find_orphans()
    logs = tuple(path for path in _logs(project) if _is_over(store, path, caller))
    if run_id is not None:
        own = tuple(each for each in found if each.run == run_id)
        log = project.log_of(run_id)
        kept = (log,) if log in logs else ()
        return Leftovers(processes=own, logs=_names(kept), size=_sizes(kept))
    bodies = store.unused_bodies()
    return Leftovers(
        processes=tuple(found),
        logs=_names(logs),
        bodies=len(bodies),
        size=_sizes(logs) + sum(bodies.values()),
    )


def clean_up(
    store: RunStore,
    project: Project,
    run_id: str | None = None,
    *,
    actor: str,
    why: str,
    caller: ParentRef | None = None,
) -> Leftovers:
    """Remove it, and write down who did so and why. What came to be owned meanwhile stays. Blocks."""
    found = find_leftovers(store, project, run_id, caller=caller)
    ended = end_orphans(only={each.pid for each in found.processes}) if found.processes else []
    logs, size = _removed(project, found)
    bodies = freed = 0
    if run_id is None:
        bodies, freed = store.sweep_bodies()
    done = Leftovers(processes=tuple(ended), logs=logs, bodies=bodies, size=size + freed)
    if done:
        store.note_upkeep(actor=actor, reason=why, done=_noted(done, run_id))
    return done


def _noted(done: Leftovers, run_id: str | None) -> Mapping[str, Any]:
    return {**done.as_json(), "run_id": run_id}


def _removed(project: Project, found: Leftovers) -> tuple[tuple[str, ...], int]:
    gone: list[str] = []
    size = 0
    for name in found.logs:
        path = project.logs / name
        with suppress(OSError):
            weight = path.stat().st_size
            path.unlink()
            gone.append(name)
            size += weight
    return tuple(gone), size


def _logs(project: Project) -> list[Path]:
    try:
        names = sorted(os.listdir(project.logs))
    except OSError:
        return []
    return [project.logs / name for name in names if name.endswith(".log")]


def _is_over(store: RunStore, path: Path, caller: ParentRef | None) -> bool:
    if path.name.startswith(_TRACEBACK):
        try:
            return time.time() - path.stat().st_mtime > _DAY
        except OSError:
            return False
    if not path.name.startswith("run_"):
        return False
    try:
        run = store.load_run(path.stem)
    except UnknownName:
        return True  # forgotten, or never written down
    except CrewError:
        return False
    return run.state in RUN_TERMINAL and (caller is None or not of_another(run, caller))


def _names(paths: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(path.name for path in paths)


def _sizes(paths: tuple[Path, ...]) -> int:
    size = 0
    for path in paths:
        with suppress(OSError):
            size += path.stat().st_size
    return size
