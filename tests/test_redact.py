"""What is taken out of logs, and what must never be."""

import base64
import hashlib
import json
import random
import uuid

import pytest

from crew_plugin.redact import Redactor

KEY = "a1B2c3D4e5F6g7H8" * 4
SECRETS = [
    ("api key of Anthropic", f"sk-ant-api03-{KEY}"),
    ("api key of OpenAI", f"sk-proj-{KEY}"),
    ("api key of OpenAI", f"sk-{KEY[:48]}"),
    ("api key of OpenRouter", f"sk-or-v1-{KEY}"),
    ("api key of Google", f"AIza{KEY[:35]}"),
    ("api key of Groq", f"gsk_{KEY[:52]}"),
    ("api key of xAI", f"xai-{KEY}{KEY}"),
    ("token of Hugging Face", f"hf_{KEY[:34]}"),
    ("token of GitHub", f"ghp_{KEY[:36]}"),
    ("token of GitHub", f"github_pat_{KEY}"),
    ("token of GitLab", f"glpat-{KEY[:20]}"),
    ("token of Slack", f"xoxb-{KEY[:40]}"),
    ("key of AWS", "AKIA" + "ABCDEFGHIJKLMNOP"),
    ("key of Stripe", f"sk_live_{KEY[:24]}"),
    ("token of npm", f"npm_{KEY[:36]}"),
    ("token of PyPI", f"pypi-AgE{KEY}"),
    ("signed token", f"eyJ{KEY[:20]}.eyJ{KEY[:30]}.{KEY[:43]}"),
    ("private key", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/=\nAAAA\n-----END RSA PRIVATE KEY-----"),
]


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(
        {"SERVICE_API_KEY": "not-a-known-shape", "DEBUG_TOKEN": "true", "KEY_PATH": "/home/me/key"}
    )


@pytest.mark.parametrize(("kind", "secret"), SECRETS)
def test_a_known_secret_goes_and_its_kind_is_said(redactor: Redactor, kind: str, secret: str) -> None:
    clean = redactor.text(f"before {secret} after")

    assert clean == f"before [redacted: {kind}] after"


@pytest.mark.parametrize(("kind", "secret"), SECRETS)
def test_json_stays_json_however_deep_the_secret_is(redactor: Redactor, kind: str, secret: str) -> None:
    around = ("x {} y", "x\n{}\ny", "\t{}\r\n", "\u201c{}\u201d")
    inner = json.dumps({"text": [each.format(secret) for each in around], "n": 1})
    outer = redactor.text(json.dumps({"arguments": inner, "m": 2}))

    gone = [each.format(f"[redacted: {kind}]") for each in around]
    assert json.loads(json.loads(outer)["arguments"]) == {"text": gone, "n": 1}
    assert json.loads(outer)["m"] == 2


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgres://me:hunter2@db/x", "postgres://me:[redacted: password]@db/x"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer [redacted: credentials]"),
        ('{"Authorization": "Basic dXNlcjpwYXNz"}', '{"Authorization": "Basic [redacted: credentials]"}'),
        (
            '{"t": "a\\nAuthorization: Bearer abc12345"}',
            '{"t": "a\\nAuthorization: Bearer [redacted: credentials]"}',
        ),
        ("the key is not-a-known-shape.", "the key is [redacted: value of SERVICE_API_KEY]."),
    ],
)
def test_headers_passwords_and_held_values_go(redactor: Redactor, text: str, clean: str) -> None:
    assert redactor.text(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        hashlib.sha256(b"x").hexdigest(),
        hashlib.sha1(b"x", usedforsecurity=False).hexdigest(),
        f"index 83db48f..{hashlib.sha1(b'y', usedforsecurity=False).hexdigest()} 100644",
        str(uuid.UUID(int=2**100)),
        f"data:image/png;base64,{base64.b64encode(random.Random(7).randbytes(90_000)).decode()}",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx3 me@host",
        "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIID\n-----END PUBLIC KEY-----",
        "git@github.com:a/b https://user@host/x http://localhost:8080/a@b",
        "def check(token: str) -> Authorization: return authorization",
        "Authorization = requests_authorization_header",
        "api_key = settings.api_key  # sk-short",
        '{"tokens": 120, "token": 5, "password": null, "secret": "the answer"}',
        "the bearer responsibilities of each role; true and /home/me/key",
        "task-runner-abcdefghijklmnopqrstuvwxyzabcdefghijk",
    ],
)
def test_what_is_no_secret_stays(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) == text


def test_bytes_that_are_no_text_stay(redactor: Redactor) -> None:
    body = b"\xff\xfe" + f"sk-ant-{KEY}".encode()

    assert redactor.body(body) is body
    assert redactor.body(f"k sk-ant-{KEY}".encode()) == b"k [redacted: api key of Anthropic]"
