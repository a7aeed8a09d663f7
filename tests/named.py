"""Which tests there are, read from the source: for the pages and lists that name tests."""

import ast
from functools import cache
from pathlib import Path

__all__ = ["named_tests"]

ROOT = Path(__file__).resolve().parent.parent
SHARED = {"TestSqliteStore": "tests/contracts/run_store.py"}
"""Classes whose tests are inherited, with the file of the class that has them."""


@cache
def named_tests() -> frozenset[str]:
    """Every test as `path::name`, without parameters."""
    found: set[str] = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        place = path.relative_to(ROOT).as_posix()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                shared = ROOT / SHARED[node.name] if node.name in SHARED else path
                found |= {f"{place}::{node.name}::{name}" for name in _tests(shared)}
            else:
                found |= {f"{place}::{name}" for name in _names(node)}
    return frozenset(found)


def _tests(path: Path) -> set[str]:
    classes = [
        node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
    ]
    return {name for each in classes for node in each.body for name in _names(node)}


def _names(node: ast.stmt) -> set[str]:
    tests = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    return {node.name} if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and tests else set()
