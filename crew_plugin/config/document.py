"""Texts made from the settings: the commented file, the page of the documentation, the schema."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from crew_plugin.config.describe import SettingRow, rows
from crew_plugin.config.settings import ProjectMay, Settings

__all__ = ["commented_config", "configuration_page", "json_schema"]

_FOR_PROJECT: Final[dict[ProjectMay, str]] = {
    "nothing": "Only the user's own file can set this.",
    "lower": "A project can only lower it.",
    "tighten": "A project can only make it stricter.",
    "set": "",
}
_IN_TABLE: Final[dict[ProjectMay, str]] = {
    "nothing": "no",
    "lower": "lower it",
    "tighten": "stricter only",
    "set": "yes",
}

_EXAMPLES: Final = {
    "agents.overrides.<name>": "explorer",
    "at_once.<name>": '"provider:openai"',
    "models.<name>": '"gpt-5-mini"',
    "mcp.servers.<name>": "github",
}
"""Which name stands for `<name>` in the commented file."""

_PAGE: Final = """\
# Configuration

Settings are read from four places; each one wins over those before it:

1. the defaults below;
2. your own file, `config.toml` in your configuration folder: `~/.config/crew-plugin/` on Linux, \
`~/Library/Application Support/crew-plugin/` on macOS;
3. the project's file, `.crew/config.toml`. It comes with the repository, so it may tighten and not \
loosen: the last column says what it may do with each key. The rest of it is ignored, with a warning;
4. environment variables: `CREW_` and the key in capitals, with two underscores for each dot. \
`CREW_LIMITS__WIDTH=4` sets `limits.width`. Lists and tables are written as JSON. An empty variable \
counts as not set.

`crew init` writes a project file with every key in it, commented out. A key that does not exist, or a \
value that is not allowed, is left out with a warning that names the place; `crew doctor` shows the \
warnings and where each value came from. A file that is not valid TOML is an error.

`trusted_projects` is read from your own file only. It names the folders of projects whose agents, \
teams, workflows and skills may take the place of builtin ones and of your own (see \
[resources](resources.md)).

## Keys

| key | default | allowed | what it does | may a project set it? |
|---|---|---|---|---|
{table}

`<name>` is the name of an agent, in whatever capitals, or the name of a model:

```toml
[agents.overrides.explorer]
model = "openai:gpt-5-mini"

[models."gpt-5-mini"]
window = 400000
input_usd = 0.25
output_usd = 2.0
cached_usd = 0.025
```

The prices are examples: the crew brings none of its own, and shows no cost where a price that is needed \
is not set (see [health](health.md)).
"""


def configuration_page() -> str:
    """The page of the documentation about settings."""
    return _PAGE.format(table="\n".join(_table_row(row) for row in rows()))


def _table_row(row: SettingRow) -> str:
    default = "not set" if row.default is None else f"`{_toml(row.default)}`"
    cells = [f"`{row.key}`", default, row.allowed, row.sentence, _IN_TABLE[row.project_may]]
    return "| " + " | ".join(cells) + " |"


def json_schema() -> str:
    """The JSON Schema of a configuration file."""
    return json.dumps(Settings.model_json_schema(), indent=2)


def commented_config() -> str:
    """A configuration file with every key in it, commented out, so that it changes nothing."""
    return "\n".join(
        [
            "# Settings of the crew for this project. Every key is commented out, with its default: take",
            "# away the '#' before a key to set it. `crew doctor` shows what is in effect and why.",
            *_commented(rows()),
            "",
        ]
    )


def _commented(found: Iterable[SettingRow]) -> Iterator[str]:
    table = ""
    for row in found:
        section, _, key = row.key.rpartition(".")
        if section != table:
            table = section
            yield ""
            # A table with a name of the user's choice is a comment, too: it would exist otherwise.
            free = _EXAMPLES.get(section)
            yield f"[{section}]" if free is None else f"# [{section.replace('<name>', free)}]"
        yield ""
        yield from _sentence(row)
        yield f"# {key} = " + ("(not set)" if row.default is None else _toml(row.default))


def _sentence(row: SettingRow) -> Iterator[str]:
    words = f"{row.sentence} {row.allowed.capitalize()}. {_FOR_PROJECT[row.project_may]}".split()
    line = "#"
    for word in words:
        if len(line) + len(word) > 98:
            yield line
            line = "#"
        line += " " + word
    yield line


def _toml(value: Any) -> str:
    """A default as TOML: JSON writes these the same way."""
    return json.dumps(value)
