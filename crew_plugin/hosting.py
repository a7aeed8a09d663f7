"""The host that `crew run` and `crew doctor` load: found through the manifest, never imported by name."""

import importlib.util
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from crew_plugin.errors import HostUnsupported
from crew_plugin.manifest import load_manifest

if TYPE_CHECKING:
    from crew_plugin.config import Settings
    from crew_plugin.crew import Crew
    from crew_plugin.project import Project

__all__ = ["HostReport", "HostSetup", "KeyState", "load_checkup", "load_host", "need_model"]

HOST = "bub"


class KeyState(StrEnum):
    """Whether a model's provider will get a key. The key itself is never looked at further."""

    SET = "set"
    NOT_NEEDED = "not needed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """What a host says about itself without being started."""

    name: str
    version: str
    problem: str | None
    """Why the crew cannot use this version; None if it can."""
    model: str
    model_chosen: bool
    """False while it is only the host's default."""
    key: KeyState
    key_hint: str
    """Which settings to set, in a sentence's middle: `BUB_MODEL and BUB_API_KEY`."""
    config_file: str
    parts: dict[str, str]
    """Other packages of the host that matter, with their versions."""
    servers: tuple[str, ...]
    """Configured MCP servers, by name."""


class HostSetup(Protocol):
    """The `checkup` module of a host's package."""

    def report(self) -> HostReport:
        """Look at the host's version and configuration. Connects to nothing."""
        ...

    def stand_in(self, *, base_url: str, home: str) -> dict[str, str]:
        """The environment variables that make the host ask a model at this address, and keep its
        own files in this folder."""
        ...


def load_host() -> "Callable[[Project, Settings], AbstractAsyncContextManager[Crew]]":
    """The host's `host_crew`. Importing it may take seconds. Raises `HostUnsupported`."""
    return cast(
        "Callable[[Project, Settings], AbstractAsyncContextManager[Crew]]", _load_module("").host_crew
    )


def load_checkup() -> HostSetup:
    """The host's self-description. Raises `HostUnsupported` if the host is not installed."""
    return cast("HostSetup", _load_module(".checkup"))


def need_model(report: HostReport) -> None:
    """Raise `HostUnsupported`, naming the settings, if no model could be asked."""
    if report.problem is not None:
        raise HostUnsupported(report.problem)
    if report.key is KeyState.MISSING:
        asked = f"a key for {report.model}" if report.model_chosen else "a model"
        raise HostUnsupported(
            f"{asked} is not configured: set {report.key_hint} (environment, or {report.config_file}); "
            "to see a crew at work without a model: crew demo"
        )


def _load_module(part: str) -> Any:
    entry = load_manifest().host(HOST)
    if importlib.util.find_spec(entry.name) is None:
        raise HostUnsupported(
            f"the host {entry.name} is not installed beside crew-plugin: "
            f'pip install "crew-plugin[{entry.name}]"'
        )
    return import_module(entry.module + part)
