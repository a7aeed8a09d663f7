"""Other people's additions to the crew: a plugin manager with our hooks and whoever implements them."""

import inspect
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

import pluggy

from crew_plugin.errors import ConfigError
from crew_plugin.hookspecs import NAMESPACE, CrewSpecs

__all__ = ["ENTRY_POINT_GROUP", "build_hooks"]

ENTRY_POINT_GROUP = "crew_plugin"


def build_hooks(project_modules: Sequence[ModuleType] = ()) -> pluggy.PluginManager:
    """A manager of its own for each caller: installed packages first, then `project_modules`.

    A plugin that cannot be loaded raises `ConfigError`: one that was to forbid something must
    not be missing in silence.
    """
    manager = pluggy.PluginManager(NAMESPACE)
    manager.add_hookspecs(CrewSpecs)
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        _register(manager, _load(entry), entry.name)
    for module in project_modules:
        _register(manager, module, module.__name__)
    return manager


def _load(entry: EntryPoint) -> object:
    try:
        plugin: object = entry.load()
    except Exception as error:
        raise ConfigError(
            f"the crew plugin {entry.name!r} ({entry.value}) cannot be loaded: {error!r}; "
            "repair or uninstall the package that brings it"
        ) from error
    return plugin() if inspect.isclass(plugin) else plugin


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise ConfigError(f"the crew plugin {name!r} does not fit the hooks of the crew: {error}") from error
    for caller in manager.get_hookcallers(plugin) or ():
        if any(
            impl.plugin is plugin and (impl.wrapper or impl.hookwrapper) for impl in caller.get_hookimpls()
        ):
            raise ConfigError(
                f"the crew plugin {name!r} wraps {caller.name!r}; hook wrappers are not supported"
            )
