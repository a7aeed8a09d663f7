"""The bundle's manifest, `plugin.toml`: which hosts and tools this package has, and where.

The core never imports a host or a tool module by name; it takes the names from here.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from crew_plugin.bundle import bundle_root
from crew_plugin.errors import OperatorMustAct, UnknownName

__all__ = ["HostEntry", "Manifest", "load_manifest"]

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """One host: the module that binds the crew into it, and what it needs."""

    name: str
    module: str
    entry_point_group: str
    requires: str
    """A requirement as pip reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What plugin.toml says."""

    name: str
    resources: Mapping[str, str]
    """Kind (`agents`, `teams`, `workflows`, `skills`) to folder, relative to the bundle."""
    tool_modules: tuple[str, ...]
    hook_namespace: str
    hook_entry_point_group: str
    hosts: Mapping[str, HostEntry]

    def host(self, name: str) -> HostEntry:
        """The host of this name. Raises `UnknownName`."""
        try:
            return self.hosts[name]
        except KeyError:
            raise UnknownName("host", name, self.hosts) from None


def load_manifest() -> Manifest:
    """The manifest of the installed bundle, or of the checkout."""
    path = bundle_root() / "plugin.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != SCHEMA:
            raise OperatorMustAct(f"{path} has schema {raw['schema']}, this crew-plugin knows {SCHEMA}")
        return _parse(raw)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise OperatorMustAct(
            f"the bundle's manifest {path} cannot be used: {error!r}; install crew-plugin again"
        ) from error


def _parse(raw: dict[str, Any]) -> Manifest:
    hosts = {
        name: HostEntry(
            name=name,
            module=host["module"],
            entry_point_group=host["entry_point_group"],
            requires=host["requires"],
        )
        for name, host in raw["hosts"].items()
    }
    return Manifest(
        name=raw["name"],
        resources=MappingProxyType(dict(raw["resources"])),
        tool_modules=tuple(raw["tools"]["modules"]),
        hook_namespace=raw["hooks"]["namespace"],
        hook_entry_point_group=raw["hooks"]["entry_point_group"],
        hosts=MappingProxyType(hosts),
    )
