"""Whatever Bub does not promise is used in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import crew_hooks.bub

ADAPTER = Path(crew_hooks.bub.__file__).parent
HOST = ("bub", "bub_mcp")
LEAN = ADAPTER / "lean.py"
"""Repeats calls of any-llm, and asks it first whether its private parts are what they were."""


def private(path: Path) -> Iterator[str]:
    """Names with an underscore in front that belong to somebody else."""
    own = {
        node.attr
        for each in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(each, ast.ClassDef)
        for node in ast.walk(each)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in HOST:
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"{path.name}: {node.module} {part}" for part in parts if part.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os")
            if not mine and node.attr not in own:
                yield f"{path.name}:{node.lineno} {ast.unparse(node)}"


def test_private_names_of_bub_are_touched_only_in_compat() -> None:
    files = [path for path in ADAPTER.rglob("*.py") if "compat" not in path.relative_to(ADAPTER).parts]
    found = {path: list(private(path)) for path in files}
    assert [name for path, names in found.items() if path != LEAN for name in names] == []
    assert found[LEAN], "nothing is found: this test sees no private names any more"


def test_what_is_private_to_the_model_library_is_touched_where_bub_is_not_known() -> None:
    tree = ast.parse(LEAN.read_text(encoding="utf-8"))
    known = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in known if name.split(".")[0] in HOST}
