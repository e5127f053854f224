"""The keys that pods' identities are signed with: HMAC-SHA512 over the pod's UUID and the content, as rkt's.

A file of keys, base64, one a line, of which the first signs and all verify; for root alone. It is read again when it
changes. Every pod of a machine is signed for with the key in the state directory, and so verifies what any other has
signed; machines that are given the same file verify one another's.
"""

import base64
import binascii
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Final
from uuid import UUID

log = logging.getLogger(__name__)

KEY_BYTES: Final = 64
LEAST_BYTES: Final = 32
FILE_LIMIT: Final = 64 << 10


class KeyFileError(ValueError):
    """The keys cannot be had; the message names the file and what to do."""


class Keys:
    """The keys of one file. Usable from several processes at a time."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        """make: a file with one new key, if there is none. Raises KeyFileError."""
        self._path = path
        if make:
            _make(path)
        self._keys, self._seen = _read(path)

    def sign(self, pod: UUID, content: bytes) -> str:
        """The signature of a pod on something, base64."""
        return base64.b64encode(_code(self._current()[0], pod, content)).decode()

    def verify(self, pod: UUID, content: bytes, signature: bytes) -> bool:
        """Whether a pod has signed this; it takes the same time whatever the signature is."""
        good = False
        for key in self._current():
            good |= hmac.compare_digest(_code(key, pod, content), signature)
        return good

    def _current(self) -> tuple[bytes, ...]:
        """The file's keys as they are now; those before when it has become unreadable."""
        try:
            now = _identity(os.stat(self._path))
        except OSError:
            now = (0, 0, 0)
        if now != self._seen:
            try:
                self._keys, self._seen = _read(self._path)
            except KeyFileError as error:
                log.error("%s; the keys before go on to be used", error)
                self._seen = now
        return self._keys


def _code(key: bytes, pod: UUID, content: bytes) -> bytes:
    return hmac.digest(key, pod.bytes + content, "sha512")  # rkt-1.30 rkt/metadata_service.go, handlePodSign


def _identity(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_ino, info.st_mtime_ns, info.st_size


def _make(path: Path) -> None:
    """Complete, or not there: two processes that make it at once end up with one and the same."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise KeyFileError(f"cannot make the key of the metadata service, {path}: {error.strerror}") from None


def _read(path: Path) -> tuple[tuple[bytes, ...], tuple[int, int, int]]:
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            text = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise KeyFileError(f"keys of the metadata service: {path}: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode) or stat.S_IMODE(info.st_mode) & 0o077 or info.st_uid != os.geteuid():
        raise KeyFileError(
            f"keys of the metadata service: {path}: must be a file of ours that nobody else can read (chown, chmod 600)"
        )
    keys = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        word = line.strip()
        if not word or word.startswith(b"#"):
            continue
        try:
            key = base64.b64decode(word, validate=True)
        except binascii.Error:
            key = b""
        if len(key) < LEAST_BYTES:
            raise KeyFileError(
                f"keys of the metadata service: {path}, line {number}: not the base64 of {LEAST_BYTES} bytes or more "
                "(openssl rand -base64 64 -A)"
            )
        keys.append(key)
    if not keys or len(text) > FILE_LIMIT:
        raise KeyFileError(f"keys of the metadata service: {path}: it has no key, or is too large")
    return tuple(keys), _identity(info)
