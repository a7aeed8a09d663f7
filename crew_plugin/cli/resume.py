"""`resume`: go on with an agent of an earlier run, in this process."""

from typing import TYPE_CHECKING

from crew_plugin.cli.place import Place
from crew_plugin.cli.supervise import Errand, supervise
from crew_plugin.config import load_settings
from crew_plugin.engine.resume import plan_resume
from crew_plugin.errors import InvalidValue
from crew_plugin.resources import Catalog

if TYPE_CHECKING:
    from crew_plugin.models.spec import RunSpec

__all__ = ["resume"]


def resume(*, place: Place, json: bool, run: str, words: list[str], quiet: bool) -> int:
    """Go on with an agent of an earlier run."""
    task, text = (words[0], " ".join(words[1:])) if len(words) > 1 else (None, words[0] if words else "")
    if not text.strip():
        raise InvalidValue("TEXT", text, 'some text: crew resume RUN "and the other file?"')
    project = place.find()
    with place.reading() as store:
        planned = plan_resume(store, run=run, task=task, text=text)

    def plan(catalog: Catalog) -> "RunSpec":
        return planned

    return supervise(
        Errand(
            place=place,
            project=project,
            settings=load_settings(project.root),
            plan=plan,
            asks_model=True,
            json=json,
            quiet=quiet,
        )
    )
