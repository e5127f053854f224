"""Logins for registries: which one belongs to an image, and how a registry's challenge is answered with it.

A keyring is what dockerconfigjson's `auths` are: entries by `host[:port][/path]`, `*` for a part of the host's name.
The entry with the longest match counts. A user called `<token>` has an identity token for a password: it is traded for
an access token and never sent to the registry itself. Sources: Kubernetes "Pull an Image from a Private Registry"
(matching), distribution "Token Authentication", "OAuth2 Token Authentication".
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import orjson

from executor.stage0 import names
from executor.stage0.errors import StoreError

IDENTITY = "<token>"
Credentials = Mapping[str, tuple[str, str]]
"""host[:port][/path] → (user, password), as a pod's imagePullSecrets have them."""
_PARAMETER = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True)
class Login:
    """User and password for a registry; the password stays out of every message."""

    username: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def is_identity(self) -> bool:
        return self.username == IDENTITY

    def mark(self, salt: bytes) -> str:
        """What is remembered of a login: enough to know it again, too little to use it."""
        text = f"{len(self.username)}:{self.username}:{self.password}".encode()
        return hashlib.scrypt(text, salt=salt, n=1024, r=8, p=1, dklen=32).hex()


def find(credentials: Credentials, host: str, repository: str) -> Login | None:
    """The login for an image; None when there is none."""
    best: tuple[int, int] = (-1, -1)
    found = None
    for key, (username, password) in credentials.items():
        wanted, path = _split(key)
        if not _host_matches(wanted, host):
            continue
        if path and repository != path and not repository.startswith(f"{path}/"):
            continue
        score = (len(path), len(wanted.replace("*", "")))
        if score > best:
            best, found = score, Login(username, password)
    return found


def _split(key: str) -> tuple[str, str]:
    """Keys may be addresses (`https://index.docker.io/v1/`), as `docker login` writes them."""
    text = re.sub(r"^https?://", "", key)
    host, _, path = text.partition("/")
    path = re.sub(r"^v[12](/|$)", "", path).strip("/")
    return names.DEFAULT_REGISTRY if host in {"index.docker.io", "registry-1.docker.io"} else host, path


def _host_matches(pattern: str, host: str) -> bool:
    """Name by name (`*.example.com` is not `a.b.example.com`); the ports are equal."""
    wanted, _, wanted_port = pattern.partition(":")
    name, _, port = host.partition(":")
    ours, theirs = wanted.split("."), name.split(".")
    if wanted_port != port or len(ours) != len(theirs):
        return False
    return all(fnmatchcase(theirs[i].lower(), part.lower()) for i, part in enumerate(ours))


def parse_docker_config(document: Any) -> dict[str, tuple[str, str]]:
    """The logins of a `config.json` of Docker's. ValueError names the entry, never its content."""
    auths = document.get("auths", {}) if isinstance(document, dict) else None
    if not isinstance(auths, dict):
        raise ValueError("not an object with auths")
    made: dict[str, tuple[str, str]] = {}
    for key, entry in auths.items():
        if not isinstance(entry, dict):
            raise ValueError(f"auths.{key}: not an object")
        login = _entry(entry)
        if login is None:
            raise ValueError(f"auths.{key}: neither auth, username and password nor identitytoken")
        made[key] = login
    return made


def _entry(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    token, username, password = entry.get("identitytoken"), entry.get("username"), entry.get("password")
    if isinstance(token, str) and token:
        return IDENTITY, token
    if isinstance(username, str) and isinstance(password, str) and username:
        return username, password
    try:
        text = base64.b64decode(str(entry.get("auth", "")), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    name, colon, secret = text.partition(":")
    return (name, secret.rstrip("\0")) if name and colon else None


def read_docker_config(path: Path | None) -> dict[str, tuple[str, str]]:
    """The node's own logins; read at every pull, as short-lived ones are renewed by others. StoreError."""
    if path is None:
        return {}
    try:
        return parse_docker_config(orjson.loads(path.read_bytes()))
    except OSError as error:
        raise StoreError(f"docker-config {path}: {error.strerror}") from None
    except ValueError as error:
        raise StoreError(f"docker-config {path}: {error}") from None


def challenge(header: str) -> tuple[str, dict[str, str]]:
    """`Bearer realm="…",service="…"` → ("bearer", {realm: …})."""
    scheme, _, rest = header.strip().partition(" ")
    found = {
        key.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
        for key, quoted, plain in _PARAMETER.findall(rest)
    }
    return scheme.lower(), found
