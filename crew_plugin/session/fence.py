"""Putting text of others into a prompt: bounded, and fenced so that it stays data."""

import re
import secrets
from hashlib import blake2b
from typing import Final

from crew_plugin.models.records import ArtifactRef

__all__ = ["excerpt", "fenced", "new_salt", "reference"]

_HEAD_SHARE: Final = 0.7
_LABEL: Final = re.compile(r"[^\w .,:/@()-]+")


def new_salt() -> str:
    """What makes the fences of one prompt unlike those of any other."""
    return secrets.token_hex(16)


def fenced(text: str, source: str, salt: str, *, tag: str = "data") -> str:
    """The text between two tags with a mark made of the salt and the text itself.

    Nobody can write a text that holds its own mark, so no text can end its own fence. The same
    salt and text give the same mark: what is the same for all tasks of a run stays the same to
    the letter, and a provider can cache it.
    """
    mark = blake2b(f"{salt}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    label = _LABEL.sub(" ", source).strip()[:120]
    return f'<{tag}-{mark} from="{label}">\n{text}\n</{tag}-{mark}>'


def reference(artifact: ArtifactRef) -> str:
    """How a prompt names an artifact."""
    return f"artifact {artifact.sha256[:12]} ({artifact.name}, {artifact.size} bytes)"


def excerpt(text: str, limit: int, whole: str) -> str:
    """The text, or its head and tail with a line between them that says what is missing and
    where the whole is."""
    if len(text) <= limit:
        return text
    head = int(limit * _HEAD_SHARE)
    tail = limit - head
    missing = len(text) - limit
    return f"{text[:head]}\n[... {missing} characters left out; whole text: {whole} ...]\n{text[-tail:]}"
