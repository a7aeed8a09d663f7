"""plugin.toml says what is in the package: here it is compared with what really is."""

import re
import tomllib
from importlib import import_module
from importlib.metadata import entry_points, requires
from pkgutil import iter_modules
from typing import Any

import pytest
from packaging.requirements import Requirement

import crew_tools
from crew_plugin import hookspecs, plugins
from crew_plugin.bundle import bundle_root
from crew_plugin.errors import UnknownName
from crew_plugin.manifest import Manifest, load_manifest
from crew_plugin.resources.models import Kind

_MAKES_TOOLS = re.compile(r"(^|_)tools?$")


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest()


def test_it_names_the_installed_distribution_and_no_version(manifest: Manifest) -> None:
    raw: dict[str, Any] = tomllib.loads((bundle_root() / "plugin.toml").read_text(encoding="utf-8"))
    assert requires(manifest.name) is not None
    assert "version" not in raw


def test_every_resource_folder_is_there_with_something_in_it(manifest: Manifest) -> None:
    assert set(manifest.resources) == {kind.folder for kind in Kind}
    for kind, folder in manifest.resources.items():
        assert folder == kind
        assert any((bundle_root() / folder).iterdir())


def test_its_tool_modules_are_those_that_make_tools(manifest: Manifest) -> None:
    makers = {
        f"crew_tools.{found.name}"
        for found in iter_modules(crew_tools.__path__)
        # These two make none of their own: they hand on what the others make.
        if found.name not in ("toolbox", "offering")
        and any(_MAKES_TOOLS.search(name) for name in _offers(f"crew_tools.{found.name}"))
    }
    assert set(manifest.tool_modules) == makers
    assert len(manifest.tool_modules) == len(makers)


def test_its_hooks_are_the_ones_that_the_code_has(manifest: Manifest) -> None:
    assert manifest.hook_namespace == hookspecs.NAMESPACE
    assert manifest.hook_entry_point_group == plugins.ENTRY_POINT_GROUP


def test_every_host_is_an_entry_point_and_an_extra(manifest: Manifest) -> None:
    declared = [Requirement(line) for line in requires(manifest.name) or ()]
    for host in manifest.hosts.values():
        values = {entry.value for entry in entry_points(group=host.entry_point_group, name="crew")}
        assert {value.partition(":")[0] for value in values} == {host.module}
        wanted = Requirement(host.requires)
        extra = [each for each in declared if each.marker and each.marker.evaluate({"extra": host.name})]
        assert (wanted.name, wanted.specifier) in [(each.name, each.specifier) for each in extra]


@pytest.mark.bub
def test_every_host_module_can_be_imported_and_has_what_the_command_line_asks_for(manifest: Manifest) -> None:
    for host in manifest.hosts.values():
        module = import_module(host.module)
        assert callable(module.plugin)
        assert callable(module.host_crew)
        checkup = import_module(f"{host.module}.checkup")
        assert callable(checkup.report)
        assert callable(checkup.stand_in)


def test_a_host_that_is_not_in_it_is_refused_with_those_that_are(manifest: Manifest) -> None:
    with pytest.raises(UnknownName, match="bub"):
        manifest.host("bob")


def _offers(name: str) -> tuple[str, ...]:
    return tuple(getattr(import_module(name), "__all__", ()))
