"""`export` and `import`: runs as files."""

from contextlib import closing
from pathlib import Path
from typing import Final

from crew_plugin.cli.hooked import Leave
from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place, program
from crew_plugin.config import load_settings
from crew_plugin.hookspecs import Publishing
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.ui.bundles import exported_text, imported_text

__all__ = ["export", "import_"]

ACTOR: Final = "operator"


def export(*, place: Place, json: bool, run: str, out: str | None, overwrite: bool) -> int:
    """Write a run into a file."""
    from crew_plugin.transfer.export import export_run, suggested_name

    with place.reading_run(run) as (store, run_id):
        path = Path(suggested_name(run_id) if out is None else out).expanduser()
        if path.is_dir():
            path /= suggested_name(run_id)
        Leave(place).need("before_publish", Publishing(run_id=run_id, file=str(path), actor=ACTOR))
        done = export_run(store, run_id, path, overwrite=overwrite)
    if json:
        print_json(done.as_json())
    else:
        print(exported_text(done.as_json()))
    return Exit.OK


def import_(*, place: Place, json: bool, file: str, as_new: bool) -> int:
    """Read a run from a file, to be looked at here."""
    from crew_plugin.transfer.load import import_bundle

    project = place.find()
    most = load_settings(project.root).bundles.max_bytes
    with closing(SqliteStore.open(project)) as store:
        done = import_bundle(
            store, Path(file).expanduser(), as_new=as_new, actor=ACTOR, me=current_owner(), most_bytes=most
        )
    if json:
        print_json(done.as_json())
    else:
        print(imported_text(done.as_json()))
        print(f"read it: {program()} show {done.run.id}{place.options()}")
    return Exit.OK
