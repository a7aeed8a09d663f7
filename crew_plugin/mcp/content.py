"""What a tool of a server answered, and how it is put before a model: bounded, nothing unnamed."""

import json
import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["SHOWN", "Answer", "Block", "Keep", "RemoteTool", "render"]

SHOWN: Final = 60_000
"""Characters of one answer that go to the model."""
_HEAD_SHARE: Final = 0.7
_KEPT_BLOCKS: Final = 20
"""Attachments of one answer that are kept; more are only counted."""

Keep = Callable[[str, bytes], Awaitable[str]]
"""Keeps a body under a name for as long as the run is kept; says how a model can read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTool:
    """A tool as its server describes it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    read_only: bool
    """Said by the server: calling it changes nothing, so it may be called once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One part of an answer: a text, or a body of another kind."""

    kind: str
    """`text`, `image`, `audio`, `resource` or `link`, or what else a server sends."""
    text: str = ""
    data: bytes | None = None
    mime: str = ""
    name: str = ""
    """The address or the name of a resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The whole answer to one call."""

    blocks: tuple[Block, ...]
    structured: object | None = None
    failed: bool = False


async def render(answer: Answer, tool: str, keep: Keep | None, *, limit: int = SHOWN) -> str:
    """The text that the model sees. What does not fit and what is no text is kept whole and named."""
    parts: list[str] = []
    kept = 0
    for block in answer.blocks:
        if block.data is None:
            parts.append(block.text if block.kind == "text" or block.text else _named(block))
            continue
        kept += 1
        parts.append(await _attached(block, f"{tool}-{kept}", keep if kept <= _KEPT_BLOCKS else None))
    if answer.structured is not None and not any(block.text for block in answer.blocks):
        parts.append(json.dumps(answer.structured, ensure_ascii=False, indent=1))
    text = "\n".join(part for part in parts if part).strip()
    if not text:
        return "the server gave no reason" if answer.failed else "(the answer is empty)"
    return await _bounded(text, tool, keep, limit)


async def _bounded(text: str, tool: str, keep: Keep | None, limit: int) -> str:
    if len(text) <= limit:
        return text
    where = "the rest was not kept"
    if keep is not None:
        where = "the whole: " + await keep(f"{tool}.txt", text.encode("utf-8", "replace"))
    head = int(limit * _HEAD_SHARE)
    left = len(text) - limit
    return f"{text[:head]}\n[... {left:,} characters left out; {where} ...]\n{text[head - limit :]}"


async def _attached(block: Block, name: str, keep: Keep | None) -> str:
    assert block.data is not None
    said = f"{block.kind}, {block.mime or 'unknown type'}, {len(block.data):,} bytes"
    if block.name:
        said += f", {block.name}"
    if keep is None:
        return f"[{said}; not shown]"
    ending = mimetypes.guess_extension(block.mime) or ".bin"
    return f"[{said}; not shown, kept as {await keep(name + ending, block.data)}]"


def _named(block: Block) -> str:
    told = ", ".join(part for part in (block.mime, block.name) if part)
    return f"[{block.kind}{': ' + told if told else ''}]"
