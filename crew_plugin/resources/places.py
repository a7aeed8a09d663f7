"""Where a person's own resources and settings are kept."""

from pathlib import Path
from typing import Final

__all__ = ["CONFIG_FILE", "user_folder"]

CONFIG_FILE: Final = "config.toml"


def user_folder() -> Path:
    """The folder with the user's `config.toml`, agents/, teams/, workflows/ and skills/."""
    from platformdirs import user_config_path

    return user_config_path("crew-plugin", appauthor=False)
