"""A project's own hooks: the Python files in its `.crew/hooks`, loaded only where the user trusts it.

A file that cannot be loaded may have been there to forbid something. So nothing starts in its
place: a stand-in refuses every run, with the file, the line and the error.
"""

import importlib.util
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Final

from crew_plugin.hookspecs import RunStarting, Verdict, hookimpl
from crew_plugin.project import CREW_DIR

__all__ = ["HookFault", "HookFile", "Refusing", "hook_files", "load_hook_file"]

FOLDER: Final = "hooks"
LOAD_SECONDS: Final = 5.0
"""How long one file may take to be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFault:
    """Why a file of hooks cannot be used, and where in it."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}{f':{self.line}' if self.line else ''}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFile:
    """A file of hooks as it was loaded, or why it was not."""

    path: Path
    module: ModuleType | None = None
    fault: HookFault | None = None

    @property
    def name(self) -> str:
        """What its implementations are called in the events of a run."""
        return f"{CREW_DIR}/{FOLDER}/{self.path.name}"


class Refusing:
    """Stands in for a file that cannot be used."""

    def __init__(self, fault: HookFault) -> None:
        self._fault = fault

    @hookimpl
    def before_run_start(self, event: RunStarting) -> Verdict:
        """Refuse every run."""
        return Verdict(
            allow=False,
            reason=f"the project's hooks cannot be loaded: {self._fault}; repair the file or take it away",
        )


def hook_files(root: Path) -> Sequence[Path]:
    """The files that a project has for hooks, in the order of their names. None is loaded."""
    folder = root / CREW_DIR / FOLDER
    return [path for path in sorted(folder.glob("*.py")) if not path.name.startswith((".", "_"))]


def load_hook_file(path: Path, root: Path, *, seconds: float = LOAD_SECONDS) -> HookFile:
    """Load one file. Whatever is wrong with it is told, never raised; one that does not come to
    an end is left alone after its time."""
    if not path.resolve().is_relative_to(root.resolve()):
        return _faulty(path, 0, f"leads out of the project {root}")
    mark = sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"crew_project_hooks_{mark}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return _faulty(path, 0, "is not a Python file that can be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up there
    problem = _within(seconds, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]  # seen above
    if problem is None:
        return HookFile(path=path, module=module)
    del sys.modules[name]
    return HookFile(path=path, fault=problem(path))


def _within(seconds: float, load: Callable[[], None]) -> "Callable[[Path], HookFault] | None":
    """Load on a thread of its own, which is not waited for at the end of the process. None if it
    went well."""
    said: list[BaseException | None] = []

    def work() -> None:
        try:
            load()
        except BaseException as error:  # noqa: BLE001 - told to whoever wanted the file
            said.append(error)
        else:
            said.append(None)

    thread = threading.Thread(target=work, name="hook file", daemon=True)
    thread.start()
    thread.join(seconds)
    if not said:
        return lambda path: HookFault(path=path, line=0, message=f"took longer than {seconds:g} s to load")
    error = said[0]
    return None if error is None else lambda path: _fault_of(error, path)


def _fault_of(error: BaseException, path: Path) -> HookFault:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return HookFault(path=path, line=error.lineno or 0, message=f"is no Python: {error.msg}")
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno or 0 for frame in frames if frame.filename == str(path)]
    return HookFault(path=path, line=lines[-1] if lines else 0, message=f"raised {error!r}")


def _faulty(path: Path, line: int, message: str) -> HookFile:
    return HookFile(path=path, fault=HookFault(path=path, line=line, message=message))
