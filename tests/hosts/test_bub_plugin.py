"""What the plugin registers in Bub, and where it stays out of the way."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from bub.framework import BubFramework
from bub.tools import REGISTRY
from loguru import logger

from crew_hooks.bub.binding import CrewPlugin, Inactive, load
from tests.hosts.bub_chat import framework_with_crew

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

OURS = ("team", "crew", "crew_agent", "crew_agent_result")


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BubFramework:
    for name in OURS:
        monkeypatch.delitem(REGISTRY, name, raising=False)
    return framework_with_crew(tmp_path, monkeypatch, "http://127.0.0.1:9/v1")


@pytest.mark.parametrize("version", ["0.4.3", "0.5.0", "0.6.0", "1.0"])
def test_a_bub_outside_the_range_gets_one_line_and_nothing_else(
    framework: BubFramework, version: str
) -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="DEBUG")
    try:
        loaded = load(framework, version=version)
    finally:
        logger.remove(sink)
    framework.plugin_manager.register(loaded, name="crew")

    assert isinstance(loaded, Inactive)
    assert [line for line in lines if "crew" in line] == lines
    assert len(lines) == 1
    assert version in lines[0]
    assert ">=0.5.1,<0.6" in lines[0]
    assert [name for name in OURS if name in REGISTRY] == []
    assert not [hook for hook, names in framework.hook_report().items() if "crew" in names]


def test_a_supported_bub_gets_the_tools_and_the_hooks(framework: BubFramework) -> None:
    loaded = load(framework)
    framework.plugin_manager.register(loaded, name="crew")

    assert isinstance(loaded, CrewPlugin)
    assert [name for name in OURS if name in REGISTRY] == list(OURS)
    assert REGISTRY["crew"].exposure == "command"
    assert REGISTRY["team"].parameters["type"] == "object"
    hooked = {hook for hook, names in framework.hook_report().items() if "crew" in names}
    assert {"load_state", "save_state", "provide_lifespan", "provide_channels"} <= hooked


def test_the_entry_point_serves_every_framework_of_a_process(framework: BubFramework) -> None:
    entry = next(entry for entry in entry_points(group="bub") if entry.name == "crew")
    assert [type(entry.load()(framework)) for _ in range(2)] == [CrewPlugin, CrewPlugin]


async def test_a_bub_that_never_uses_the_crew_leaves_no_trace_of_it(framework: BubFramework) -> None:
    framework.plugin_manager.register(load(framework), name="crew")
    async with framework.running():
        await framework.build_state({"content": "hello"}, "test:chat")

    assert list((framework.workspace / ".crew").iterdir()) == []


def test_the_crews_sessions_end_before_bubs_shells(framework: BubFramework) -> None:
    framework.plugin_manager.register(load(framework), name="crew")
    # Bub enters lifespans from the end of this list and leaves them the other way round.
    impls = framework.plugin_manager.hook.provide_lifespan.get_hookimpls()
    assert [impl.plugin_name for impl in impls] == ["crew", "builtin"]


def test_importing_the_plugin_is_cheap_and_builds_no_models() -> None:
    code = (
        "import bub, bub.builtin.hook_impl, sys, time\n"
        "before = set(sys.modules)\n"
        "import crew_hooks.bub\n"
        "new = set(sys.modules) - before\n"
        "print(sorted(n for n in new if n.split('.')[0] in {'pydantic', 'rich', 'typer', 'mcp', 'psutil'}))\n"
        "print('crew_plugin.models.spec' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == ["[]", "False"]
