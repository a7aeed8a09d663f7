"""Which files are likely to hold secrets, judged by their names alone."""

import re
from itertools import pairwise
from pathlib import PurePosixPath

__all__ = ["why_sensitive"]

_KEY_SUFFIXES = frozenset({
    ".env", ".pem", ".key", ".p12", ".pfx", ".crt", ".cer", ".jks", ".keystore", ".asc", ".gpg",
})  # fmt: skip
_NAMES = frozenset({".env", ".netrc", "_netrc", ".npmrc", ".pypirc", "authorized_keys", "known_hosts"})
_FOLDERS = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".docker"})
_ENV_SAMPLES = frozenset({"example", "sample", "template", "dist", "defaults"})

# A source file called secrets.py deals with secrets; secrets.yaml holds them.
_DATA_SUFFIXES = frozenset({
    "", ".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".txt", ".csv", ".tsv", ".xml",
    ".properties", ".db", ".sqlite", ".kdbx", ".enc", ".bak", ".old", ".dat", ".tfvars",
})  # fmt: skip
_WORD = re.compile(r"(?<![a-z0-9])(secrets?|credentials?|passwords?|passwd)(?![a-z0-9])")
_SSH_KEY = re.compile(r"id_(rsa|dsa|ecdsa|ed25519)(_sk)?(?!.*\.pub$)(?![a-z0-9])")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def why_sensitive(path: str) -> str | None:
    """Why the file at this path is not read, or None when it may be."""
    pure = PurePosixPath(path.replace("\\", "/"))
    folders = [part.lower() for part in pure.parts[:-1]]
    for folder in folders:
        if folder in _FOLDERS:
            return f"the folder {folder!r} usually holds credentials"
    if any(pair == (".config", "gcloud") for pair in pairwise(folders)):
        return "the folder '.config/gcloud' usually holds credentials"
    if folders[-1:] == [".git"] and pure.name.lower() in ("config", "credentials"):
        return "git's own configuration may hold access tokens"
    return _why_name(pure.name)


def _why_name(original: str) -> str | None:
    name = original.lower()
    if name.startswith(".env.") and name.rsplit(".", 1)[1] in _ENV_SAMPLES:
        return None
    if name in _NAMES or name.startswith(".env.") or _SSH_KEY.match(name):
        return f"{original!r} usually holds credentials"
    suffix = PurePosixPath(name).suffix
    if suffix in _KEY_SUFFIXES:
        return f"{suffix!r} files usually hold keys or secrets"
    words = _HUMP.sub("_", original).lower()
    if suffix in _DATA_SUFFIXES and _WORD.search(words):
        return f"its name says that {original!r} holds secrets"
    return None
