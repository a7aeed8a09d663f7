"""A project's own hooks: loaded where the user trusts it, and never missing in silence."""

import sys
from pathlib import Path

import pytest

from crew_plugin.engine.hooks import Hooks
from crew_plugin.errors import ConfigError
from crew_plugin.hookfiles import load_hook_file
from crew_plugin.models.states import RunState
from crew_plugin.plugins import LoadedHooks, load_hooks
from crew_plugin.project import Project
from tests.engine.bench import open_bench, spec_of, step
from tests.engine.test_hooks import STARTING

GATE = """\
from crew_plugin.hookspecs import Verdict, hookimpl


@hookimpl
def before_run_start(event):
    return Verdict(allow=False, reason="the gate is shut")
"""


def with_hooks(root: Path, **files: str) -> Path:
    folder = root / ".crew" / "hooks"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return root


async def refusal(loaded: LoadedHooks) -> str:
    cause = (await Hooks(loaded.manager).ask("before_run_start", STARTING)).refusal
    return "" if cause is None else cause.message


@pytest.mark.anyio
async def test_a_trusted_projects_file_takes_part(tmp_path: Path) -> None:
    loaded = load_hooks(with_hooks(tmp_path, gate=GATE, _helper="raise SystemExit"), trusted=True)
    assert [file.name for file in loaded.files] == [".crew/hooks/gate.py"]
    assert loaded.hooks_of(".crew/hooks/gate.py") == ("before_run_start",)
    assert loaded.warnings() == ()
    assert await refusal(loaded) == "the gate is shut"


@pytest.mark.anyio
async def test_an_untrusted_projects_file_is_named_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    root = with_hooks(tmp_path, gate=f"open({str(mark)!r}, 'w').close()\n{GATE}")
    loaded = load_hooks(root, trusted=False)
    assert [path.name for path in loaded.untrusted] == ["gate.py"]
    assert "gate.py" in loaded.warnings()[0]
    assert "trusted_projects" in loaded.warnings()[0]
    assert await refusal(loaded) == ""
    assert not mark.exists()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("x = 1\n\ndef (:\n", 3, "is no Python"),
        ("import os\n\n1 / 0\n", 3, "ZeroDivisionError"),
        ("raise SystemExit(4)\n", 1, "SystemExit(4)"),
        ("import no_such_module_at_all\n", 1, "ModuleNotFoundError"),
        (GATE.replace("before_run_start", "before_run_begin"), 4, "does not fit the hooks of the crew"),
        (GATE.replace("(event)", "(event, more)"), 4, "does not fit the hooks of the crew"),
    ],
)
async def test_a_broken_file_refuses_every_run_and_says_where_it_is_broken(
    tmp_path: Path, text: str, line: int, why: str
) -> None:
    root = with_hooks(tmp_path, broken=text)
    loaded = load_hooks(root, trusted=True)
    (fault,) = loaded.faults
    assert str(fault).startswith(f"{root / '.crew/hooks/broken.py'}:{line}: ")
    assert why in str(fault)
    assert str(fault) in loaded.warnings()[0]
    assert str(fault) in await refusal(loaded)


def test_a_file_that_never_ends_to_load_is_left_alone_in_time(tmp_path: Path) -> None:
    root = with_hooks(tmp_path, slow="import threading\nthreading.Event().wait(60)\n")
    file = load_hook_file(root / ".crew/hooks/slow.py", root, seconds=0.05)
    assert file.fault is not None
    assert "took longer than 0.05 s" in str(file.fault)


def test_a_file_that_leads_out_of_the_project_is_not_run(tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("raise AssertionError('it was run')\n", encoding="utf-8")
    root = with_hooks(tmp_path / "project")
    (root / ".crew/hooks/link.py").symlink_to(outside)
    (fault,) = load_hooks(root, trusted=True).faults
    assert "leads out of the project" in fault.message


def test_two_projects_have_their_own_hooks_in_one_process(tmp_path: Path) -> None:
    one = load_hooks(with_hooks(tmp_path / "one", gate=GATE), trusted=True)
    other = load_hooks(with_hooks(tmp_path / "other"), trusted=True)
    assert one.files[0].module is not None
    assert sys.modules[one.files[0].module.__name__] is one.files[0].module
    assert other.manager.hook.before_run_start.get_hookimpls() == []


@pytest.mark.anyio
async def test_a_run_is_refused_by_a_file_and_the_event_names_it(tmp_path: Path) -> None:
    loaded = load_hooks(with_hooks(tmp_path, gate=GATE), trusted=True)
    plugin = loaded.files[0].module
    assert plugin is not None
    async with open_bench(Project(root=tmp_path, state_dir=tmp_path / "state"), plugins=(plugin,)) as bench:
        run = await bench.execute(spec_of(step("a")))
        (executed,) = await bench.events(run.id, "hook.executed")
    assert (run.state, str(run.cause)) == (RunState.FAILED, "hook_blocked: the gate is shut")
    assert (executed.data["outcome"], executed.data["reason"]) == ("blocked", "the gate is shut")


def test_a_file_with_a_hook_wrapper_is_refused(tmp_path: Path) -> None:
    text = (
        "import pluggy\n\n"
        "@pluggy.HookimplMarker('crew')(wrapper=True)\ndef after_run_end(event):\n    yield\n"
    )
    (fault,) = load_hooks(with_hooks(tmp_path, wraps=text), trusted=True).faults
    assert "hook wrappers are not supported" in fault.message


def test_a_package_that_cannot_be_loaded_stops_the_crew_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken_guest-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: broken-guest\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[crew_plugin]\nguest = broken_guest:Plugin\n", encoding="utf-8")
    (tmp_path / "broken_guest.py").write_text("raise SystemExit('no')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"'guest' \(broken_guest:Plugin\) cannot be loaded"):
        load_hooks(tmp_path, trusted=False)
