"""What Bub says about itself, for `crew doctor` and before `crew run`: version, model, MCP servers.

Reads what Bub would read and starts nothing. Bub's process-wide settings are left alone, so that
a Bub that is loaded later still reads its environment anew.
"""

import json
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from crew_plugin.hosting import HostReport, KeyState

if TYPE_CHECKING:
    from bub.builtin.settings import AgentSettings

__all__ = ["report", "stand_in"]

_HINT = "BUB_MODEL and BUB_API_KEY"


def report() -> HostReport:
    """Bub's version and configuration, and what is wrong with them."""
    from bub.framework import DEFAULT_CONFIG_FILE

    from crew_hooks.bub.compat import probe

    problem = probe()
    model, key, chosen = "", KeyState.MISSING, False
    servers: tuple[str, ...] = ()
    try:
        raw = _read_config(DEFAULT_CONFIG_FILE)
        chosen = bool(os.environ.get("BUB_MODEL")) or "model" in raw
        settings = _settings(raw)
        model = settings.model
        key = _key_state(settings)
        servers = _servers(raw)
    except (ValueError, ImportError, OSError) as error:
        problem = problem or f"Bub's configuration cannot be used: {error}"
    return HostReport(
        name="bub",
        version=metadata.version("bub"),
        problem=problem,
        model=model,
        model_chosen=chosen,
        key=key,
        key_hint=_HINT,
        config_file=str(DEFAULT_CONFIG_FILE),
        parts=_parts(),
        servers=servers,
    )


def stand_in(*, base_url: str, home: str) -> dict[str, str]:
    """The environment in which Bub asks the model at `base_url` and keeps its own files in `home`."""
    return {
        "BUB_HOME": home,
        "BUB_MODEL": "openai:scripted",
        "BUB_API_KEY": "scripted",
        "BUB_API_BASE": base_url,
    }


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    if not path.exists():
        return {}
    try:
        loaded: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error
    return cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}


def _settings(raw: dict[str, Any]) -> "AgentSettings":
    from bub.builtin.settings import AgentSettings

    return AgentSettings.model_validate(raw)


def _key_state(settings: "AgentSettings") -> KeyState:
    """Whether the chosen model's provider would be called with a key."""
    from any_llm import AnyLLM
    from any_llm.exceptions import AnyLLMError

    try:
        candidate = settings.model_candidates(settings.model)[0]
        provider = AnyLLM.get_provider_class(candidate.provider)
    except AnyLLMError as error:
        raise ValueError(f"model {settings.model!r}: {error}") from error
    if settings.model_client_kwargs(candidate.provider_name or candidate.provider.value).get("api_key"):
        return KeyState.SET
    variable = provider.ENV_API_KEY_NAME
    # Providers that run on this machine have none.
    if variable in ("", "None", None):
        return KeyState.NOT_NEEDED
    return KeyState.SET if os.environ.get(variable) else KeyState.MISSING


def _servers(raw: dict[str, Any]) -> tuple[str, ...]:
    """The MCP servers that bub-mcp would connect to."""
    try:
        from bub_mcp.config import MCPSettings
    except ImportError:
        return ()
    try:
        return tuple(MCPSettings.model_validate(raw.get("mcp") or {}).read_mcp_servers())
    except (RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"the MCP servers' configuration cannot be read: {error}") from error


def _parts() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("bub-mcp", "fastmcp", "any-llm-sdk"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
