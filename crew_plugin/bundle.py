"""Where the bundle is: plugin.toml and the resource folders, in a wheel or in a checkout."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["bundle_root"]


def bundle_root() -> "Traversable":
    """The folder with plugin.toml, agents/, teams/, workflows/ and skills/."""
    # Costs as much as all else that a light command imports.
    from importlib.resources import files

    packaged = files("crew_plugin") / "_bundle"
    # An editable install leaves a partial _bundle in site-packages; a real one has its agents.
    if (packaged / "agents").is_dir():
        return packaged
    return Path(__file__).resolve().parent.parent
