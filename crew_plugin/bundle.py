"""Where the bundle is: plugin.toml and the resource folders, in a wheel or in a checkout."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

__all__ = ["bundle_root"]


def bundle_root() -> Traversable:
    """The folder with plugin.toml, agents/, teams/, workflows/ and skills/."""
    packaged = files("crew_plugin") / "_bundle"
    # An editable install leaves a partial _bundle in site-packages; a real one has its agents.
    if (packaged / "agents").is_dir():
        return packaged
    return Path(__file__).resolve().parent.parent
