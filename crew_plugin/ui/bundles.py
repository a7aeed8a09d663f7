"""Exported and imported runs as text, for people and for models."""

from collections.abc import Mapping
from typing import Any

from crew_plugin.ui.text import bytes_text, clock_text

__all__ = ["exported_text", "imported_text"]


def exported_text(done: Mapping[str, Any]) -> str:
    """What was written, and where."""
    at = clock_text(done["exported_at"])
    what = f"{done['state']}, as it stood at {at}" if done["snapshot"] else done["state"]
    goes_on = "; what comes after that is not in it" if done["snapshot"] else ""
    return (
        f"run {done['run_id']} ({what}) stands in {done['file']} ({bytes_text(done['size'])}){goes_on}\n"
        "it holds the goal, prompts, transcripts and results as they are: look at it before you give it away"
    )


def imported_text(done: Mapping[str, Any]) -> str:
    """What came of a bundle."""
    if done["already"]:
        return f"run {done['run_id']} is here already, with the same content; nothing was changed"
    lines = [f"run {done['run_id']} was imported ({done['state']}); it can be read, not gone on with"]
    if done["closed"]:
        keys = ", ".join(done["closed"])
        lines.append(f"it had not ended when it was exported, so these tasks were ended here: {keys}")
    return "\n".join(lines)
