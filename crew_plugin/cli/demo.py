"""`demo`: the review team looks at a copy of this package's own source."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crew_plugin.cli.place import Place
from crew_plugin.cli.supervise import Errand, supervise
from crew_plugin.config import load_settings
from crew_plugin.errors import HostUnsupported
from crew_plugin.hosting import HostReport, KeyState, load_checkup
from crew_plugin.resources import Catalog

if TYPE_CHECKING:
    from crew_plugin.models.spec import RunSpec

__all__ = ["demo"]

_GOAL: Final = (
    "Review crew_plugin/store/writer.py and crew_plugin/store/bodies.py: could a result be lost, "
    "or a secret leak?"
)
_PACKAGES: Final = ("crew_plugin", "crew_hooks", "crew_tools")


def demo(*, place: Place, json: bool, quiet: bool) -> int:
    """Run the demo; its folder stays."""
    if not quiet:
        print("copying this package's source, then loading the host ...", file=sys.stderr, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="crew-demo-"))
    _copy_source(folder)
    _make_repository(folder)
    # The demo's folder is the project, whatever folder this was typed in.
    place = replace(place, project=str(folder), state_dir=None)
    report = load_checkup().report()
    if report.problem is not None:
        raise HostUnsupported(report.problem)
    with _model(report, folder, quiet=quiet):
        return supervise(_errand(place, json=json, quiet=quiet))


def _errand(place: Place, *, json: bool, quiet: bool) -> Errand:
    project = place.find()
    settings = load_settings(project.root)

    def plan(catalog: Catalog) -> "RunSpec":
        from crew_plugin.engine.plan import plan_run

        return plan_run(catalog, settings, goal=_GOAL, cwd=str(project.root), team="review")

    return Errand(
        place=place,
        project=project,
        settings=settings,
        plan=plan,
        asks_model=True,
        json=json,
        quiet=quiet,
    )


# --- a small real repository ----------------------------------------------------------------


def _copy_source(folder: Path) -> None:
    """The checkout's tracked files, or the installed packages."""
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        shutil.copytree(
            Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )


def _make_repository(folder: Path) -> None:
    """A repository with one commit, so that it is a real one; without git, just the folder."""
    if shutil.which("git") is None:
        return
    person = ("-c", "user.name=crew demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "-A"), (*person, "commit", "-q", "-m", "Copy for the demo")):
        subprocess.run(["git", *words], cwd=folder, check=False, capture_output=True, timeout=30)


# --- a model --------------------------------------------------------------------------------


@contextmanager
def _model(report: HostReport, folder: Path, *, quiet: bool) -> Generator[None]:
    """The configured model, or a scripted stand-in in a process of its own."""
    if report.key is not KeyState.MISSING:
        yield
        return
    print(
        f"no model is configured: a scripted stand-in answers; {report.key_hint} make it a real model",
        file=sys.stderr,
        flush=True,
    )
    with _scripted_server() as url:
        before = dict(os.environ)
        home = str(folder / ".crew" / "host")
        os.environ |= load_checkup().stand_in(base_url=url, home=home)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _scripted_server() -> Generator[str]:
    """The address of a model server that ends with this block."""
    command = [sys.executable, "-m", "crew_plugin.testing.model_server", "--script", "demo", "--port", "0"]
    # It ends when its standard input does, so also when this process is killed; and it is in a
    # group of its own, so that Ctrl-C is for the run alone.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url:
            raise HostUnsupported("the scripted model server did not start; try: " + " ".join(command))
        try:
            yield url
        finally:
            server.stdin.close()
