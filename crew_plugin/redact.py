"""Secrets are taken out of what is kept as a log: bodies that a session is not shown whole, arguments of
calls, and texts of events. Results, and the conversation that a session is gone on with, stay as they are.

Found are values that look like nothing else (a known prefix, a private key, a password inside a URL) and
the values of this process's own variables that are named like secrets. Names of fields say nothing.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

__all__ = ["RedactingFormatter", "redacted", "redacted_body", "secrets_of"]

_WORD: Final = r"(?<![A-Za-z0-9_-])"
_SHAPES: Final = (
    (
        "private key",
        ("PRIVATE KEY-----",),
        r"()-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.{1,8000}?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)()",
    ),
    (
        "API key",
        ("sk-",),
        rf"(){_WORD}sk-(?=[A-Za-z0-9_-]{{0,60}}[0-9])(?=[A-Za-z0-9_-]{{0,60}}[A-Z])[A-Za-z0-9_-]{{20,250}}()",
    ),
    ("API key", ("AIza",), rf"(){_WORD}AIza[A-Za-z0-9_-]{{35}}()"),
    ("API key", ("k_live_", "k_test_"), rf"(){_WORD}[rs]k_(?:live|test)_[A-Za-z0-9]{{24,250}}()"),
    ("AWS key", ("AKIA", "ASIA"), rf"(){_WORD}(?:AKIA|ASIA)[A-Z0-9]{{16}}(?![A-Za-z0-9])()"),
    (
        "GitHub token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        rf"(){_WORD}(?:gh[pousr]_[A-Za-z0-9]{{36,250}}|github_pat_[A-Za-z0-9_]{{22,250}})()",
    ),
    ("GitLab token", ("glpat-", "gldt-", "glrt-"), rf"(){_WORD}gl(?:pat|dt|rt)-[A-Za-z0-9_-]{{20,100}}()"),
    ("Slack token", ("xox",), rf"(){_WORD}xox[abposr]-[A-Za-z0-9-]{{10,250}}()"),
    ("npm token", ("npm_",), rf"(){_WORD}npm_[A-Za-z0-9]{{36}}(?![A-Za-z0-9])()"),
    ("PyPI token", ("pypi-",), rf"(){_WORD}pypi-[A-Za-z0-9_-]{{70,1000}}()"),
    ("Hugging Face token", ("hf_",), rf"(){_WORD}hf_[A-Za-z0-9]{{30,100}}()"),
    (
        "JSON web token",
        ("eyJ",),
        rf"(){_WORD}eyJ[A-Za-z0-9_-]{{8,4000}}\.eyJ[A-Za-z0-9_-]{{8,8000}}\.[A-Za-z0-9_-]{{8,2000}}()",
    ),
    (
        "authorization",
        ("uthorization", "UTHORIZATION"),
        r"([Aa]uthorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?:[Bb]earer|[Bb]asic|[Tt]oken)\s{1,3})"
        r"(?![<$\{\[])[^\s\"',;]{8,8000}()",
    ),
    ("password", ("://",), r"(://[^\s:/@\"']{0,100}:)(?![<$\{\[])[^\s:/@\"']{3,200}(@)"),
)
"""What it is, texts of which one stands in whatever holds it, and the pattern: a group before the secret
and one after it are kept."""
_NAMED: Final = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
_SHORTEST: Final = 8
"""A shorter value stands in too many texts by chance."""


def redacted(text: str) -> str:
    """The text, with `[redacted: KIND]` in the place of each secret."""
    return _redacted(text, _own())


def redacted_body(body: bytes) -> bytes:
    """A body likewise. One that is no text is left as it is."""
    if b"\0" in body[:8192]:
        return body
    text = body.decode("utf-8", "surrogateescape")
    clean = redacted(text)
    return body if clean is text else clean.encode("utf-8", "surrogateescape")


class RedactingFormatter(logging.Formatter):
    """Formats the lines of a log that stays."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with its traceback."""
        return redacted(super().format(record))


def secrets_of(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Names and values of variables that are secrets by their name, the longest value first. Paths,
    numbers and what is too short are none."""
    found = (
        (name, value)
        for name, value in environment.items()
        if _NAMED.search(name.upper()) and len(value) >= _SHORTEST and not _plain(value)
    )
    return tuple(sorted(found, key=lambda each: -len(each[1])))


def _plain(value: str) -> bool:
    return value.startswith(("/", "~", "./")) or value.isdigit()


@cache
def _own() -> tuple[tuple[str, str], ...]:
    return secrets_of(os.environ)


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.DOTALL) for _, _, pattern in _SHAPES)


def _redacted(text: str, own: tuple[tuple[str, str], ...]) -> str:
    for name, value in own:
        if value in text:
            text = text.replace(value, f"[redacted: {name}]")
    for kind, pattern in _possible(text):
        text = pattern.sub(rf"\1[redacted: {kind}]\2", text)
    return text


def _possible(text: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Looking for a fixed text first makes megabytes without any secret cheap."""
    for (kind, needles, _), pattern in zip(_SHAPES, _patterns(), strict=True):
        if any(needle in text for needle in needles):
            yield kind, pattern
