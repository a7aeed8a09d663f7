"""Asking hooks for commands that need no host: those that delete, and that write runs into files."""

from typing import TYPE_CHECKING

from crew_plugin.cli.place import Place
from crew_plugin.errors import NotAllowed

if TYPE_CHECKING:
    from crew_plugin.engine.hooks import Deed, HookName
    from crew_plugin.store.port import RunStore

__all__ = ["Leave"]


class Leave:
    """Asks whoever implements a hook, in the installed packages and in the project where the user
    trusts it."""

    def __init__(self, place: Place) -> None:
        from crew_plugin.config import load_settings
        from crew_plugin.engine.hooks import Hooks
        from crew_plugin.plugins import load_hooks
        from crew_plugin.resources import is_trusted

        root = place.find().root
        settings = load_settings(root)
        loaded = load_hooks(root, trusted=is_trusted(root, settings))
        self._hooks = Hooks(loaded.manager, settings.hooks.seconds)

    def need(self, name: "HookName", event: "Deed", store: "RunStore | None" = None) -> None:
        """Raise `NotAllowed` with the first refusal. The calls are written down with the run, where a
        store is given."""
        if not self._hooks.decides(name) and not self._hooks.watched(name):
            return
        import anyio

        refusal, events = anyio.run(self._hooks.allow, name, event)
        if store is not None and event.run_id is not None:
            store.append_events(None, event.run_id, events)
        if refusal is not None:
            raise NotAllowed(f"a hook refused it: {refusal}")
