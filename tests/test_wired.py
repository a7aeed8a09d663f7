"""Nothing is built without being used: functions, settings, events, causes, errors."""

import ast
import re
from collections import Counter
from pathlib import Path

from crew_plugin import errors
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.events import EVENT_TYPES

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = [
    *(ROOT / "crew_plugin").rglob("*.py"),
    *(ROOT / "hooks").rglob("*.py"),
    *(ROOT / "tools").rglob("*.py"),
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PRODUCT}
WORDS = Counter(word for text in TEXTS.values() for word in re.findall(r"\w+", text))

# Called by a framework through its name, or offered to users of the package.
CALLED_FROM_OUTSIDE = {
    # pluggy hooks of Bub
    "load_state",
    "save_state",
    "system_prompt",
    "provide_lifespan",
    "provide_channels",
    "before_llm_call",
    "before_tool_call",
    "after_tool_call",
    "after_llm_call",
    "admit_message",
    "register_cli_commands",
    "on_error",
    "provide_environment",
    # shipped for the tests of users and of our own
    "testing",
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


def mentions_beyond_definition(name: str) -> int:
    """How often a name stands in the product, its definition and its `__all__` line left out."""
    definition = re.compile(rf"^\s*(?:async )?(?:def|class) {name}\b", re.MULTILINE)
    exported = re.compile(rf"^\s*\"{name}\",?$", re.MULTILINE)
    listed = re.compile(rf"^__all__ = \[.*\"{name}\".*\]$", re.MULTILINE)
    spent = sum(
        len(definition.findall(text)) + len(exported.findall(text)) + len(listed.findall(text))
        for text in TEXTS.values()
    )
    return WORDS[name] - spent


def test_every_public_function_and_class_has_a_user_in_the_product() -> None:
    unused = sorted(
        f"{path.relative_to(ROOT)}: {name}"
        for path, name in public_definitions()
        if name not in CALLED_FROM_OUTSIDE and mentions_beyond_definition(name) < 1
    )
    assert unused == []


def test_every_event_type_is_written_somewhere() -> None:
    texts = {
        path: text for path, text in TEXTS.items() if path.name != "events.py" or "models" not in path.parts
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
