"""A real Bub in a folder of its own, a scripted model, and an engine that must leave nothing behind."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bub import configure
from bub.builtin.shell_manager import shell_manager
from bub.framework import BubFramework
from loguru import logger

from crew_hooks.bub.engine import BubEngine
from crew_plugin.child.engine import ChildEngine
from crew_plugin.child.nursery import Nursery
from crew_plugin.engine.provider_gate import ProviderGates
from crew_plugin.host import SessionSpec
from crew_plugin.models.ids import new_id
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.models.states import SessionKind
from crew_plugin.testing.conversation import Script
from crew_plugin.testing.model_server import ScriptedModelServer
from tests.hosts.bub_engine import RUNTIME, Host
from tests.hosts.warm import WHERE, warm_zygotes
from tests.leftovers import no_task_is_left, nobody_listens, nothing_is_left

__all__ = ["no_task_is_left", "nobody_listens", "nothing_is_left"]


@pytest.fixture
def bub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home for Bub, and no settings of the machine's user."""
    home = tmp_path / "bub-home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("BUB_", "OPENAI_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUB_HOME", str(home))
    monkeypatch.setenv("BUB_MODEL", "openai:scripted")
    monkeypatch.setenv("BUB_API_KEY", "test")
    # Runs in the background stay here, where their sessions can be looked at.
    monkeypatch.setenv("CREW_RUNTIME__BACKGROUND", "host")
    yield home
    configure.load(home / "none.yml")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of what every engine must do are run with sessions here and with sessions in workers."""
    marker = metafunc.definition.get_closest_marker
    if marker("both_engines") and not marker("live_only") and "engine_kind" in metafunc.fixturenames:
        metafunc.parametrize("engine_kind", [SessionKind.LIVE, SessionKind.CHILD])


class _WarmNursery(Nursery):
    def __init__(self, *, zygote: str, worker: str, **facts: Any) -> None:
        assert zygote == "crew_hooks.bub.zygote"
        super().__init__(zygote="tests.hosts.warm", worker=worker, **facts)


@pytest.fixture(params=["live-session", "child-process"])
def either_runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test of whole runs with sessions here and with sessions in workers."""
    monkeypatch.setenv(RUNTIME, request.param)
    if request.param == "child-process":
        monkeypatch.setenv(WHERE, request.getfixturevalue("forks"))
        monkeypatch.setattr("crew_plugin.child.nursery.Nursery", _WarmNursery)
    return str(request.param)


@pytest.fixture
def engine_kind() -> SessionKind:
    """Where the sessions of a test are held, where it does not say."""
    return SessionKind.LIVE


@asynccontextmanager
async def _engine_of(engine: BubEngine, kind: SessionKind) -> AsyncIterator[BubEngine | ChildEngine]:
    if kind is SessionKind.LIVE:
        yield engine
        return
    async with _WarmNursery(zygote="crew_hooks.bub.zygote", worker="crew_hooks.bub.worker") as nursery:
        yield ChildEngine(engine, nursery)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where zygotes come from without loading Bub each time."""
    with warm_zygotes(tmp_path_factory.mktemp("warm")) as name:
        yield name


@pytest.fixture
def hosted(
    bub_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine_kind: SessionKind,
    request: pytest.FixtureRequest,
) -> Callable[..., AbstractAsyncContextManager[Host]]:
    """Opens a running Bub with an engine. `plugins` are registered after Bub's own hooks."""
    if engine_kind is SessionKind.CHILD:
        monkeypatch.setenv(WHERE, request.getfixturevalue("forks"))

    @asynccontextmanager
    async def open_host(
        script: Script, *plugins: object, running: bool = True, hook_seconds: float = 10
    ) -> AsyncIterator[Host]:
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        async with ScriptedModelServer(script) as model:
            monkeypatch.setenv("BUB_API_BASE", model.base_url)
            before = asyncio.all_tasks()
            framework = BubFramework(bub_home / "config.yml")
            framework.workspace = folder
            framework.load_builtin_hooks()
            for plugin in plugins:
                framework.plugin_manager.register(plugin(framework) if isinstance(plugin, type) else plugin)
            gates = ProviderGates(start=64, ceiling=128)
            engine = BubEngine(framework, gates=gates, hook_seconds=hook_seconds)
            if running:
                async with framework.running(), engine.running(), _engine_of(engine, engine_kind) as held:
                    yield Host(framework, held, engine, model, folder, gates)
                    nothing_is_left_in(framework)
            else:
                async with engine.running():
                    yield Host(framework, engine, engine, model, folder, gates)
            assert asyncio.all_tasks() - before == set()

    return open_host


def nothing_is_left_in(framework: BubFramework) -> None:
    """No shell, no waiting message and no environment of a session is left in Bub."""
    assert shell_manager._shells == {}
    inbox: Any = framework.get_steering_inbox()
    assert dict(inbox._messages) == {}
    assert framework._environments == {}


@pytest.fixture
def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines that Bub's logger writes."""
    lines: list[str] = []
    number = logger.add(lines.append, format="{message}", level="WARNING")
    yield lines
    logger.remove(number)


@pytest.fixture
def spec_of() -> Callable[..., SessionSpec]:
    """Makes specs of sessions. Their ids are unlike any other's on the machine: what carries the id of
    a session is ended with it, also a process of a test that runs at the same time."""

    def make(host: Host, **changes: Any) -> SessionSpec:
        values: dict[str, Any] = {
            "session_id": new_id("ses"),
            "agent": "explorer",
            "system_prompt": "You explore.",
            "cwd": str(host.folder),
            "tools": (),
            "host_tools": (),
            "limits": LimitsSpec(),
        }
        return SessionSpec(**values | changes)

    return make
