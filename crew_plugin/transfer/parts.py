"""The names of what is in a bundle."""

from typing import Final

__all__ = ["BODIES", "FORMAT", "HEAD", "MOST_ENTRIES", "ROWS", "VERSION"]

FORMAT: Final = "crew-run-bundle"
VERSION: Final = 1
HEAD: Final = "run.json"
"""What the bundle is and what it holds."""
ROWS: Final = "rows.jsonl"
"""A line of JSON for each row."""
BODIES: Final = "bodies/"
"""Stored bodies, each under its hash."""
MOST_ENTRIES: Final = 60_000
"""How many bodies there may be: more would need another kind of zip file than is read."""
