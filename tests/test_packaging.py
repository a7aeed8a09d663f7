"""The wheel holds everything, and nothing that pollutes site-packages."""

import importlib.util
import json
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheel_tool", ROOT / "tests" / "wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = _tool().build_wheel(tmp_path_factory.mktemp("dist"))
    assert isinstance(path, Path)
    return path


def test_the_wheel_has_three_top_level_packages_and_no_other(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {
        "crew_plugin",
        "crew_hooks",
        "crew_tools",
    }


def test_every_module_and_resource_of_the_tree_is_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected: set[str] = {"crew_plugin/_bundle/plugin.toml"}
    for folder, target in (
        ("crew_plugin", "crew_plugin"),
        ("hooks/crew_hooks", "crew_hooks"),
        ("tools/crew_tools", "crew_tools"),
        ("agents", "crew_plugin/_bundle/agents"),
        ("teams", "crew_plugin/_bundle/teams"),
        ("workflows", "crew_plugin/_bundle/workflows"),
        ("skills", "crew_plugin/_bundle/skills"),
    ):
        expected |= {
            f"{target}/{path.relative_to(ROOT / folder)}"
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    assert expected - inside == set()


def test_an_installed_wheel_finds_its_resources_and_its_command(wheel: Path, tmp_path: Path) -> None:
    python = _tool().install_wheel(wheel, tmp_path / "venv")
    probe = (
        "import json, crew_plugin, crew_hooks, crew_tools\n"
        "from importlib.metadata import entry_points\n"
        "root = crew_plugin.bundle_root()\n"
        "print(json.dumps({'at': crew_plugin.__file__,"
        " 'agents': sorted(p.name for p in (root / 'agents').iterdir()),"
        " 'skills': sorted(p.name for p in (root / 'skills').iterdir()),"
        " 'toml': (root / 'plugin.toml').is_file(),"
        " 'bub': [e.value for e in entry_points(group='bub') if e.name == 'crew']}))"
    )
    answer = subprocess.run(
        [python, "-I", "-c", probe], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    found = json.loads(answer.stdout)
    assert str(tmp_path) in found["at"]
    assert found["agents"] == sorted(path.name for path in (ROOT / "agents").iterdir())
    assert found["skills"] == sorted(path.name for path in (ROOT / "skills").iterdir())
    assert found["toml"] is True
    assert found["bub"] == ["crew_hooks.bub:plugin"]
    command = subprocess.run(
        [python.parent / "crew", "agents", "--json"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "explorer" in command.stdout
