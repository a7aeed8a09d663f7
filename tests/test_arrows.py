"""Which room may know which: read from the imports themselves."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "crew_plugin": ROOT / "crew_plugin",
    "crew_hooks": ROOT / "hooks" / "crew_hooks",
    "crew_tools": ROOT / "tools" / "crew_tools",
}
HOST_LIBRARIES = {"bub", "bub_mcp", "fastmcp", "any_llm", "openai", "anthropic", "loguru"}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


@cache
def imports(path: Path) -> frozenset[str]:
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(prefix: str, allowed: tuple[str, ...]) -> list[str]:
    """Modules outside `allowed` that import something under `prefix`."""

    def under(name: str, room: str) -> bool:
        return name == room or name.startswith(room + ".")

    return [
        f"{module} imports {name}"
        for module, path in modules()
        if not any(under(module, room) for room in allowed)
        for name in sorted(imports(path))
        if under(name, prefix)
    ]


@pytest.mark.parametrize(
    ("prefix", "allowed"),
    [
        ("crew_hooks", ("crew_hooks",)),
        ("crew_tools", ("crew_tools", "crew_hooks")),
        ("crew_plugin.cli", ("crew_plugin.cli", "crew_hooks")),
        (
            "crew_plugin.ui",
            ("crew_plugin.ui", "crew_plugin.cli", "crew_plugin.transfer", "crew_tools", "crew_hooks"),
        ),
        ("crew_plugin.transfer", ("crew_plugin.transfer", "crew_plugin.cli", "crew_tools")),
        ("crew_plugin.testing", ("crew_plugin.testing", "crew_plugin.cli")),
        (
            "crew_plugin.store.sqlite",
            ("crew_plugin.store", "crew_plugin.detached", "crew_plugin.testing", "crew_plugin.cli"),
        ),
        ("sqlite3", ("crew_plugin.store", "crew_plugin.cli.doctor")),
        ("mcp", ("crew_plugin.mcp",)),
    ],
)
def test_a_room_is_entered_only_from_the_rooms_above_it(prefix: str, allowed: tuple[str, ...]) -> None:
    assert importers(prefix, allowed) == []


@pytest.mark.parametrize("library", sorted(HOST_LIBRARIES))
def test_only_the_host_adapter_knows_its_host(library: str) -> None:
    assert importers(library, ("crew_hooks",)) == []


def test_models_know_nobody() -> None:
    for module, path in modules():
        if module.startswith("crew_plugin.models"):
            ours = [
                name for name in imports(path) if name.startswith(("crew_plugin", "crew_tools", "crew_hooks"))
            ]
            assert [name for name in ours if not name.startswith("crew_plugin.models")] == [], module


@pytest.mark.parametrize("room", ["engine", "session"])
def test_engine_and_session_reach_storage_and_hosts_only_through_ports(room: str) -> None:
    allowed = {
        "crew_plugin.store.port",
        "crew_plugin.store.writer",
        "crew_plugin.store.follow",
        "crew_plugin.store.liveness",
    }
    for module, path in modules():
        if module.startswith(f"crew_plugin.{room}"):
            reached = {
                name
                for name in imports(path)
                if name.startswith("crew_plugin.store.") and not name.rpartition(".")[2][:1].isupper()
            }
            assert {
                name for name in reached if not any(name == ok or name.startswith(ok + ".") for ok in allowed)
            } == set(), module


def test_the_user_interface_reads_the_store_and_never_the_engine() -> None:
    assert (
        importers(
            "crew_plugin.engine",
            (
                "crew_plugin.engine",
                "crew_plugin.session",
                "crew_plugin.cli",
                "crew_plugin.child",
                "crew_plugin.detached",
                "crew_plugin.transfer",
                "crew_plugin.crew",
                "crew_plugin.testing",
                "crew_tools",
                "crew_hooks",
            ),
        )
        == []
    )
