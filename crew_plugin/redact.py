"""Take secrets out of logs: transcripts, journals, events, outputs of tools that are kept.

Only shapes that nothing else has are known here, and the values of this process's own environment
variables that are named like secrets. Nothing is judged by the name of a field, and nothing by how
random it looks: hashes, ids and images stay. A replacement has no quotes and no backslashes, and
nothing that it replaces reaches over a quote, so that JSON stays JSON.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Redactor"]

_SHORTEST_VALUE: Final = 8
"""Shorter values of the environment are words that stand anywhere."""
_SECRET_NAME: Final = re.compile(
    r"(?:^|_)(?:API_?KEY|ACCESS_?KEY|SECRET_?KEY|PRIVATE_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE"
    r"|CREDENTIALS?|WEBHOOK_URL|DSN)(?:_[0-9A-Z]+)?$"
)
_NO_SECRET: Final = re.compile(r"(?:true|false|none|null|[0-9.]+|[~./][^\s]*|(.)\1*)", re.IGNORECASE)
"""Values that are switches, numbers, paths or one repeated character, whatever their variable is called."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """One kind of secret. Its pattern is only tried where one of `hints` stands in the text, which
    is found a hundred times faster."""

    kind: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]


def _shape(kind: str, hints: tuple[str, ...], pattern: str) -> _Shape:
    return _Shape(kind, hints, re.compile(pattern))


# In JSON the letter before may belong to an escape: `\n`, `\u201c`.
_BEFORE: Final = r"(?:(?<![A-Za-z0-9_\-])|(?<=\\[nrtbf])|(?<=\\u[0-9a-f]{4}))"
_AFTER: Final = r"(?![A-Za-z0-9_\-])"
# In JSON inside JSON a line break is `\n` or `\\n`.
_BREAK: Final = r"(?:\\+[nrt])"

_SHAPES: Final = (
    _shape(
        "private key",
        ("PRIVATE KEY",),
        # A block that was cut off has no end line.
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
        rf"(?:[A-Za-z0-9+/=\s:,.\-]|{_BREAK})*?"
        r"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|(?![A-Za-z0-9+/=\s:,.\-\\]))",
    ),
    _shape(
        "api key of Anthropic",
        ("sk-ant-",),
        rf"{_BEFORE}sk-ant-[A-Za-z0-9_\-]{{20,}}",
    ),
    _shape("api key of OpenRouter", ("sk-or-",), rf"{_BEFORE}sk-or-v1-[A-Za-z0-9]{{32,}}"),
    _shape(
        "api key of OpenAI",
        ("sk-",),
        rf"{_BEFORE}sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_\-]{{20,}}|(?=[A-Za-z0-9]*[0-9])[A-Za-z0-9]{{32,}}{_AFTER})",
    ),
    _shape("api key of Google", ("AIza",), rf"{_BEFORE}AIza[A-Za-z0-9_\-]{{35}}{_AFTER}"),
    _shape("api key of Groq", ("gsk_",), rf"{_BEFORE}gsk_[A-Za-z0-9]{{40,}}"),
    _shape("api key of xAI", ("xai-",), rf"{_BEFORE}xai-[A-Za-z0-9]{{60,}}"),
    _shape("token of Hugging Face", ("hf_",), rf"{_BEFORE}hf_[A-Za-z0-9]{{30,}}{_AFTER}"),
    _shape(
        "token of GitHub",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        rf"{_BEFORE}(?:gh[pousr]_[A-Za-z0-9]{{36,}}|github_pat_[A-Za-z0-9_]{{50,}})",
    ),
    _shape("token of GitLab", ("glpat-",), rf"{_BEFORE}glpat-[A-Za-z0-9_\-]{{20,}}"),
    _shape("token of Slack", ("xox", "xapp-"), rf"{_BEFORE}(?:xox[abeoprs]|xapp)-[A-Za-z0-9\-]{{10,}}"),
    _shape(
        "webhook of Slack",
        ("hooks.slack.com/",),
        r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{20,}",
    ),
    _shape("key of AWS", ("AKIA", "ASIA"), rf"{_BEFORE}A(?:KI|SI)A[A-Z2-7]{{16}}{_AFTER}"),
    _shape(
        "key of Stripe",
        ("k_live_", "k_test_", "whsec_"),
        rf"{_BEFORE}(?:[rs]k_(?:live|test)_[A-Za-z0-9]{{16,}}|whsec_[A-Za-z0-9]{{24,}})",
    ),
    _shape("token of npm", ("npm_",), rf"{_BEFORE}npm_[A-Za-z0-9]{{36}}{_AFTER}"),
    _shape("token of PyPI", ("pypi-AgE",), rf"{_BEFORE}pypi-AgE[A-Za-z0-9_\-]{{50,}}"),
    _shape("key of SendGrid", ("SG.",), rf"{_BEFORE}SG\.[A-Za-z0-9_\-]{{22}}\.[A-Za-z0-9_\-]{{43}}{_AFTER}"),
    _shape(
        "signed token",
        ("eyJ",),
        rf"{_BEFORE}eyJ[A-Za-z0-9_\-]{{10,}}\.eyJ[A-Za-z0-9_\-]{{10,}}\.[A-Za-z0-9_\-]{{20,}}",
    ),
)
_BEARER: Final = re.compile(
    rf"{_BEFORE}([Bb]earer|[Tt]oken|[Bb]asic)(\s+)([A-Za-z0-9._~+/\-]{{16,}}={{0,2}})"
)
_AUTHORIZATION: Final = re.compile(
    rf"({_BEFORE}authorization\b[\"'\\]*\s*[:=]\s*[\"'\\]*)"
    r"(?:((?:bearer|basic|token)\s+)([A-Za-z0-9._~+/\-]{8,}={0,2})|([A-Za-z0-9._~+/\-]{16,}={0,2}))",
    re.IGNORECASE,
)
_URL: Final = re.compile(
    r"([a-z][a-z0-9+.\-]{1,20}://[^\s/:@\"'\\<>\[\]]{0,256}:)([^\s/@\"'\\<>\[\]]{1,256})(@)"
)


class Redactor:
    """Replaces secrets in text by `[redacted: KIND]`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` is this process's, as it was when it began to write."""
        held: dict[str, str] = {}
        for name, value in sorted(environment.items()):
            if _SECRET_NAME.search(name.upper()) and len(value) >= _SHORTEST_VALUE:
                if _NO_SECRET.fullmatch(value):
                    continue
                for spelled in (value, json.dumps(value)[1:-1]):
                    held.setdefault(spelled, name)
        # The longest first: one may be the beginning of another.
        self._held = sorted(held.items(), key=lambda each: -len(each[0]))

    def text(self, text: str) -> str:
        """The text without the secrets in it."""
        for value, name in self._held:
            if value in text:
                text = text.replace(value, f"[redacted: value of {name}]")
        for shape in _SHAPES:
            for hint in shape.hints:
                if hint in text:
                    text = shape.pattern.sub(f"[redacted: {shape.kind}]", text)
                    break
        if "earer" in text or "uthorization" in text or "UTHORIZATION" in text:
            text = _AUTHORIZATION.sub(_header, text)
            text = _BEARER.sub(_credentials, text)
        if "://" in text and "@" in text:
            text = _URL.sub(r"\1[redacted: password]\3", text)
        return text

    def body(self, body: bytes) -> bytes:
        """The same for bytes; what is no text stays as it is."""
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            return body
        clean = self.text(text)
        return body if clean == text else clean.encode("utf-8")


def _header(found: re.Match[str]) -> str:
    before, scheme, _, bare = found.groups()
    if scheme is None and not _has_digit(bare):
        return found[0]
    return f"{before}{scheme or ''}[redacted: credentials]"


def _has_digit(value: str) -> bool:
    return any(character.isdigit() for character in value)


def _credentials(found: re.Match[str]) -> str:
    """A name or a word of prose after `bearer` or `authorization` is none: credentials have digits."""
    before, space, value = found.groups()
    if not _has_digit(value):
        return found[0]
    return f"{before}{space}[redacted: credentials]"
