"""Other people's additions to the crew: a plugin manager with our hooks and whoever implements them."""

import inspect
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from crew_plugin.errors import ConfigError
from crew_plugin.hookfiles import HookFault, HookFile, Refusing, hook_files, load_hook_file
from crew_plugin.hookspecs import NAMESPACE, CrewSpecs

__all__ = ["ENTRY_POINT_GROUP", "LoadedHooks", "build_hooks", "load_hooks"]

ENTRY_POINT_GROUP = "crew_plugin"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedHooks:
    """Whoever takes part in the runs of one project."""

    manager: pluggy.PluginManager
    packages: tuple[str, ...]
    """Names of the entry points."""
    files: tuple[HookFile, ...] = ()
    """The project's own, loaded or not."""
    untrusted: tuple[Path, ...] = ()
    """The project's own, named and left alone: the user does not trust the project."""

    @property
    def faults(self) -> tuple[HookFault, ...]:
        """What is wrong with the project's own."""
        return tuple(file.fault for file in self.files if file.fault is not None)

    def hooks_of(self, plugin: str) -> tuple[str, ...]:
        """The hooks that one of them implements."""
        callers = self.manager.get_hookcallers(self.manager.get_plugin(plugin)) or ()
        return tuple(sorted(caller.name for caller in callers))

    def warnings(self) -> tuple[str, ...]:
        """What whoever starts a run should know."""
        faults = (f"hooks: {fault}; every run is refused until it is repaired" for fault in self.faults)
        names = ", ".join(path.name for path in self.untrusted)
        left = (
            f"hooks of this project are not loaded ({names}): it is not in trusted_projects of your settings",
        )
        return (*faults, *(left if self.untrusted else ()))


def load_hooks(root: Path, *, trusted: bool) -> LoadedHooks:
    """A manager of its own for one project: installed packages first, then the project's own files
    if it is `trusted`. Reads and runs files: call it off an event loop.

    A package that cannot be loaded raises `ConfigError`; a file of the project that cannot is
    replaced by one that refuses every run. What was to forbid something is not missing in silence.
    """
    manager = build_hooks()
    packages = tuple(name for name, _ in manager.list_name_plugin())
    paths = tuple(hook_files(root))
    if not trusted:
        return LoadedHooks(manager=manager, packages=packages, untrusted=paths)
    files = tuple(_take(manager, load_hook_file(path, root)) for path in paths)
    return LoadedHooks(manager=manager, packages=packages, files=files)


def build_hooks() -> pluggy.PluginManager:
    """A manager with the installed packages. One that cannot be loaded raises `ConfigError`."""
    manager = pluggy.PluginManager(NAMESPACE)
    manager.add_hookspecs(CrewSpecs)
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        _register(manager, _load(entry), entry.name)
    return manager


def _load(entry: EntryPoint) -> object:
    try:
        plugin: object = entry.load()
        return plugin() if inspect.isclass(plugin) else plugin
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the crew plugin {entry.name!r} ({entry.value}) cannot be loaded: {error!r}; "
            "repair or uninstall the package that brings it"
        ) from error


def _take(manager: pluggy.PluginManager, file: HookFile) -> HookFile:
    """Register a file's hooks, or a stand-in that refuses runs."""
    if file.module is not None:
        try:
            _register(manager, file.module, file.name)
        except ConfigError as error:
            if manager.has_plugin(file.name):
                manager.unregister(name=file.name)
            fault = HookFault(path=file.path, line=_line_of(file.module), message=str(error))
            file = replace(file, module=None, fault=fault)
    if file.fault is not None:
        manager.register(Refusing(file.fault), name=file.name)
    return file


def _line_of(module: ModuleType) -> int:
    """Where the first function stands that is marked as a hook and does not fit; 0 if none is found."""
    for name, value in vars(module).items():
        if inspect.isfunction(value) and hasattr(value, f"{NAMESPACE}_impl"):
            spec = getattr(CrewSpecs, name, None)
            if spec is None or not set(inspect.signature(value).parameters) <= {"event"}:
                return value.__code__.co_firstlineno
    return 0


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
