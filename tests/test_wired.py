"""Nothing is built without being used: functions, settings, events, causes, errors."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from crew_plugin import errors
from crew_plugin.cli.table import COMMANDS
from crew_plugin.config.describe import rows
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.events import EVENT_TYPES

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = [
    *(ROOT / "crew_plugin").rglob("*.py"),
    *(ROOT / "hooks").rglob("*.py"),
    *(ROOT / "tools").rglob("*.py"),
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PRODUCT}


def _names(text: str) -> Iterator[str]:
    """Every name in the code, annotations in strings included, other strings and comments not."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name.rpartition(".")[2]
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and _ANNOTATION.fullmatch(node.value)
        ):
            yield from re.findall(r"\w+", node.value)


_ANNOTATION = re.compile(
    r"[\w.\[\], |]{0,120}[\[.|][\w.\[\], |]{0,120}"
)  # not a single word: those stand in __all__
USED = Counter(name for text in TEXTS.values() for name in _names(text))

# Called by a framework through its name, or offered to users of the package.
CALLED_FROM_OUTSIDE = {
    # hooks of Bub, and what Bub asks of an agent, an inbox and a channel
    *("load_state", "save_state", "system_prompt", "provide_lifespan", "provide_channels", "admit_message"),
    *("before_llm_call", "after_llm_call", "before_tool_call", "after_tool_call", "register_cli_commands"),
    *("drain_messages", "enqueue_message", "message_count", "get_tape_sidecars", "build_tape_context"),
    # commands: called by their names in the table
    *(command.function for command in COMMANDS),
    # our own hooks: called by their names
    *("before_run_start", "before_task_start", "after_task_end", "after_run_end", "non_blocking"),
    *("before_retry", "before_forget", "before_cleanup", "before_publish", "run_recovery"),
    *("before_cancel", "task_result", "session_connected", "session_disconnected", "session_before_switch"),
    # pydantic-settings and PyYAML
    *("settings_customise_sources", "ignore_aliases"),
}


def public_definitions() -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for path, text in TEXTS.items():
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                decorated = any(
                    "command" in ast.unparse(item) or "callback" in ast.unparse(item)
                    for item in node.decorator_list
                )
                if not node.name.startswith("_") and not decorated:
                    found.append((path, node.name))
    return found


def test_every_public_function_and_class_has_a_user_in_the_product() -> None:
    unused = sorted(
        f"{path.relative_to(ROOT)}: {name}"
        for path, name in public_definitions()
        if name not in CALLED_FROM_OUTSIDE and not USED[name]
    )
    assert unused == []


def test_every_setting_is_read_somewhere() -> None:
    texts = [text for path, text in TEXTS.items() if "config" not in path.parts]
    # The limits of a session are read all at once.
    of_sessions = TEXTS[ROOT / "crew_plugin" / "config" / "settings.py"].partition("def session(")[2]
    overrides = "\n".join(text for text in texts if "AgentOverride" in text)

    def is_read(key: str) -> bool:
        section, _, leaf = key.rpartition(".")
        if section == "models.<name>" or key == "context.window":
            table = TEXTS[ROOT / "crew_plugin" / "config" / "settings.py"].partition("def model_table(")[2]
            read = f"{leaf}=one.{leaf}" in table or f"self.{key}" in table
            return read and any("settings.model_table()" in text for text in texts)
        if section == "at_once.<name>":
            return any("settings.at_once" in text and f"each.{leaf}" in text for text in texts)
        if section == "mcp.servers.<name>":
            return any("settings.mcp.servers" in text and f"server.{leaf}" in text for text in texts)
        if section == "agents.overrides.<name>":
            return f"override.{leaf}" in overrides
        if section == "limits" and f"{leaf}=self.{leaf}" in of_sessions:
            return any("limits.session()" in text for text in texts)
        return any(re.search(rf"\bsettings\.{re.escape(key)}\b", text) for text in texts)

    assert [row.key for row in rows() if not is_read(row.key)] == []


def test_every_event_type_is_written_somewhere() -> None:
    texts = {
        path: text
        for path, text in TEXTS.items()
        if path.parts[-2:] != ("models", "events.py") and "ui" not in path.parts
    }
    unused = [name for name in EVENT_TYPES if not any(f'"{name}"' in text for text in texts.values())]
    assert unused == []


def test_every_cause_is_given_somewhere() -> None:
    texts = [text for path, text in TEXTS.items() if path.name != "causes.py"]
    assert [
        code.name for code in CauseCode if not any(f"CauseCode.{code.name}" in text for text in texts)
    ] == []


def test_every_error_is_raised_somewhere() -> None:
    bases = {"CrewError", "CallerError", "OperatorMustAct", "StaleView", "EngineErrorKind"}
    unused = [
        name
        for name in errors.__all__
        if name not in bases
        and not any(
            re.search(rf"\b{name}\(", text) for path, text in TEXTS.items() if path.name != "errors.py"
        )
    ]
    assert unused == []
