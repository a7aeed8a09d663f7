"""What is taken for a secret, and what is not."""

import base64
import hashlib
import io
import logging
import random
import time

import pytest

from crew_plugin import redact
from crew_plugin.redact import RedactingFormatter, redacted, redacted_body, secrets_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def letters(number: int) -> str:
    """So many letters and digits, always the same ones."""
    return "".join(random.Random(number).choices(LETTERS, k=number))


# Put together here, so that nobody who looks for keys finds one in this file.
SECRETS = [
    ("API key", "sk-" + "proj-" + letters(48)),
    ("API key", "sk-" + "ant-api03-" + letters(80)),
    ("API key", "AI" + "za" + letters(35)),
    ("API key", "sk_" + "live_" + letters(24)),
    ("AWS key", "AK" + "IA" + "QWERTYUIOP123456"),
    ("GitHub token", "gh" + "p_" + letters(36)),
    ("GitHub token", "github" + "_pat_" + letters(60)),
    ("GitLab token", "gl" + "pat-" + letters(20)),
    ("Slack token", "xo" + "xb-12345678901-" + letters(24)),
    ("npm token", "np" + "m_" + letters(36)),
    ("PyPI token", "py" + "pi-" + letters(90)),
    ("Hugging Face token", "h" + "f_" + letters(34)),
    ("JSON web token", "ey" + "J" + letters(20) + ".ey" + "J" + letters(60) + "." + letters(43)),
    (
        "private key",
        "-----BEGIN RSA " + "PRIVATE KEY-----\n" + letters(800) + "\n-----END RSA " + "PRIVATE KEY-----",
    ),
]


@pytest.mark.parametrize(
    ("kind", "secret"), SECRETS, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(SECRETS)]
)
def test_what_looks_like_nothing_else_is_taken_out_wherever_it_stands(kind: str, secret: str) -> None:
    for text in (secret, f"key={secret}", f'{{"token": "{secret}"}}', f"a {secret} b\nand {secret}."):
        clean = redacted(text)
        assert clean == text.replace(secret, f"[redacted: {kind}]")
        assert redacted(clean) == clean


def test_of_headers_and_addresses_only_the_secret_goes() -> None:
    assert redacted("curl -H 'Authorization: Bearer abcdef0123456789'") == (
        "curl -H 'Authorization: Bearer [redacted: authorization]'"
    )
    assert redacted("postgres://ann:hunter2@db:5432/x") == "postgres://ann:[redacted: password]@db:5432/x"


@pytest.mark.parametrize(
    "text",
    [
        hashlib.sha256(b"x").hexdigest(),
        hashlib.sha1(b"x", usedforsecurity=False).hexdigest(),
        "123e4567-e89b-12d3-a456-426614174000",
        base64.b64encode(bytes(range(256)) * 8).decode(),
        '{"token": "value", "password": "what it is", "tokens": 1234}',
        "class='sk-fading-circle-with-a-long-name'",
        "risk-assessment-of-the-second-Quarter-2026",
        "http://localhost:8080/a@b and git@github.com:me/it.git",
        "https://user:${PASSWORD}@host and Authorization: Bearer <token>",
        "https://example.org/a:b/c@d",
        "PRIVATE KEY handling is described in the manual",
    ],
)
def test_what_only_resembles_a_secret_stays(text: str) -> None:
    assert redacted(text) is text


def test_the_values_of_ones_own_secret_variables_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "MY_API_KEY": "correct horse",
        "OTHER_TOKEN": "correct horse battery",
        "SSH_KEY": "/home/ann/.ssh/id",
        "NUMBER_SECRET": "1234567890",
        "SHORT_TOKEN": "short",
        "KEYBOARD": "german-layout",
    }
    own = secrets_of(environment)
    assert [name for name, _ in own] == ["OTHER_TOKEN", "MY_API_KEY"]
    monkeypatch.setattr(redact, "_own", lambda: own)
    assert redacted("it says correct horse battery, or correct horse") == (
        "it says [redacted: OTHER_TOKEN], or [redacted: MY_API_KEY]"
    )


def test_a_body_keeps_every_other_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = SECRETS[5][1].encode()
    assert redacted_body(b"\xff\xfe " + secret + b" \x80") == b"\xff\xfe [redacted: GitHub token] \x80"
    image = b"\x89PNG\0\0" + secret
    assert redacted_body(image) is image
    assert redacted_body(b"nothing here") == b"nothing here"


def test_the_lines_of_a_log_are_clean_with_their_tracebacks() -> None:
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    try:
        raise ValueError(SECRETS[5][1])
    except ValueError as error:
        told = logging.LogRecord(
            "x", logging.ERROR, "x.py", 1, "with %s", (SECRETS[4][1],), (ValueError, error, None)
        )
        handler.emit(told)
    assert "with [redacted: AWS key]" in lines.getvalue()
    assert "ValueError: [redacted: GitHub token]" in lines.getvalue()


def test_no_text_takes_long() -> None:
    """Bounded repetition: nothing that a tool can print makes the patterns run away."""
    hostile = [
        "sk-" * 100_000,
        "eyJ" + "a" * 300_000,
        "://" + "a:" * 100_000,
        "-----BEGIN PRIVATE KEY-----\n" * 3000,
    ]
    spent = time.process_time()
    for text in hostile:
        redacted(text)
    assert time.process_time() - spent < 20  # the work of a second, on a very busy machine
