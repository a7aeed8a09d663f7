"""Write every generated file anew: `python tests/generate.py`, or `make generate`.

Tool schemas, the references of tools, commands and settings, and the page of states, causes,
events and errors. Each comes from what the product itself uses.
"""

import ast
import inspect
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

import crew_tools.schemas as schemas
from crew_plugin import errors
from crew_plugin.cli.reference import reference as cli_page
from crew_plugin.config.document import configuration_page
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.events import EVENT_TYPES
from crew_plugin.models.states import (
    RUN_RETRYABLE,
    RUN_TRANSITIONS,
    TASK_RETRYABLE,
    TASK_TRANSITIONS,
    AttemptState,
    RunState,
    TaskState,
)
from crew_tools.schemas.generate import all_schemas, rendered
from crew_tools.schemas.reference import reference as tools_page

__all__ = ["generated", "main", "outdated"]

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = Path(schemas.__file__).resolve().parent

_STATES_HEAD = """\
# States, causes, events and errors

Made from the tables in the code by `make generate`; a test compares. These are all there are: the store
refuses every other state, transition and event.
"""


def generated() -> dict[Path, str]:
    """Every generated file with what it should hold."""
    files = {SCHEMAS / f"{name}.json": rendered(schema) for name, schema in all_schemas().items()}
    docs = ROOT / "docs"
    return files | {
        docs / "tools.md": tools_page(),
        docs / "cli.md": cli_page(),
        docs / "configuration.md": configuration_page(),
        docs / "states.md": states_page(),
    }


def outdated() -> list[str]:
    """The generated files that do not hold what they should."""
    return [
        path.name
        for path, text in generated().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def states_page() -> str:
    """States with their transitions, causes, event types, and the tree of errors."""
    tree = inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2]
    parts = [
        _STATES_HEAD,
        "## Runs\n",
        _table(("state", "meaning", "may become"), _states(RunState, RUN_TRANSITIONS)),
        "## Tasks\n",
        _table(("state", "meaning", "may become"), _states(TaskState, TASK_TRANSITIONS)),
        f"An explicit retry (`crew retry`) leaves {_named(TASK_RETRYABLE)} for a new attempt, and queues\n"
        f"the dependants again that were skipped because of them. A run that is {_named(RUN_RETRYABLE)} is\n"
        "`queued` again then, under a new epoch. Nothing else leaves a terminal state.\n\n"
        "`lost` is not a state: it is shown for a run that the store calls running and whose process is\n"
        "dead. `crew cancel` closes such a run: `failed`, with the cause `supervisor_lost`.\n",
        "## Attempts\n",
        _table(("state", "meaning"), ((f"`{state}`", says(AttemptState)[state]) for state in AttemptState)),
        "## Causes\n",
        _table(("cause", "meaning"), ((f"`{code}`", says(CauseCode)[code]) for code in CauseCode)),
        "## Events\n",
        _table(
            ("event", "meaning", "written by", "data"),
            (
                (f"`{event.name}`", event.doc, event.writer, ", ".join(f"`{key}`" for key in event.fields))
                for event in EVENT_TYPES.values()
            ),
        ),
        "## Errors\n",
        f"Sorted by who must act.\n\n```text\n{tree}\n```\n",
    ]
    return "\n".join(parts)


def _named(states: Iterable[StrEnum]) -> str:
    return " or ".join(f"`{state}`" for state in sorted(states))


def says(enum: type[StrEnum]) -> dict[str, str]:
    """The sentence that follows each member of `enum` in its source."""
    (found,) = ast.parse(inspect.getsource(enum)).body
    assert isinstance(found, ast.ClassDef)
    sentences: dict[str, str] = {}
    for member, after in zip(found.body, found.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(after, ast.Expr):
            (value, text) = (ast.literal_eval(member.value), ast.literal_eval(after.value))
            sentences[value] = " ".join(text.split())
    return sentences


def _states[S: StrEnum](enum: type[S], transitions: Mapping[S, frozenset[S]]) -> Iterable[tuple[str, ...]]:
    for state in enum:
        after = ", ".join(f"`{other}`" for other in enum if other in transitions[state])
        yield f"`{state}`", says(enum)[state], after or "nothing: it is over"


def _table(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    heads = tuple(heads)
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Write what is out of date and say what it was."""
    for path, text in generated().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
