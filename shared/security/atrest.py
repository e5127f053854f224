"""Encryption at rest: AES-256-GCM under a ring of keys. The first key encrypts, all of them decrypt.

    sealed   magic, format, key id (8 bytes) | nonce (12 bytes) | ciphertext and tag

What is sealed is bound to a context (where it is kept): moved elsewhere, it does not open. Nonces are random, which is
good for 2**32 messages a key (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.security.secretfile import SecretError, read_text

VARIABLE = "GANTRY_ENCRYPTION_KEY"

KEY_BYTES = 32
_HEAD = struct.Struct(">4sB8s")
_MAGIC, _FORMAT = b"GtyA", 1
_NONCE = 12


class UnknownKey(Exception):
    """Sealed with a key that is not on the ring; `id` is its id in hex."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"it is encrypted with key {key_id}, which is not given")
        self.id = key_id


class Tampered(Exception):
    """Not what was sealed, or not where it was sealed for."""


class KeyRing:
    """`keys`: 32 bytes each; ValueError for none."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"expecting keys of {KEY_BYTES} bytes")
        self._ciphers = {_id(key): AESGCM(key) for key in keys}
        self._first = _id(keys[0])

    @classmethod
    def parse(cls, text: str, where: str) -> KeyRing:
        """One key a line, 32 bytes in base64 or hex; empty lines and lines that begin with # are skipped. SecretError
        says `where` and never quotes the text."""
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            word = line.strip()
            if word and not word.startswith("#"):
                key = _decode(word)
                if key is None:
                    raise SecretError(
                        f"{where}, line {number}: expecting a key of {KEY_BYTES} bytes in base64 or hex "
                        f"(make one: head -c {KEY_BYTES} /dev/urandom | base64)"
                    )
                keys.append(key)
        if not keys:
            raise SecretError(f"{where}: there is no key in it")
        return cls(keys)

    @property
    def first(self) -> str:
        """The id of the key that encrypts, in hex. It tells nothing about the key."""
        return self._first.hex()

    def seal(self, data: bytes, context: bytes) -> bytes:
        head = _HEAD.pack(_MAGIC, _FORMAT, self._first)
        nonce = os.urandom(_NONCE)
        return head + nonce + self._ciphers[self._first].encrypt(nonce, data, head + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises UnknownKey, Tampered."""
        key_id = _key_id(sealed)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnknownKey(key_id.hex())
        head, rest = sealed[: _HEAD.size], sealed[_HEAD.size :]
        try:
            return cipher.decrypt(rest[:_NONCE], rest[_NONCE:], head + context)
        except (InvalidTag, ValueError) as error:
            raise Tampered(
                "it does not decrypt: it was changed, or moved here from another object"
            ) from error


def is_sealed(data: bytes) -> bool:
    return data.startswith(_MAGIC)


def key_of(sealed: bytes) -> str:
    """The id of the key it was sealed with, in hex. Raises Tampered."""
    return _key_id(sealed).hex()


def _key_id(sealed: bytes) -> bytes:
    try:
        magic, form, key_id = _HEAD.unpack_from(sealed)
    except struct.error as error:
        raise Tampered("it is cut off") from error
    if magic != _MAGIC or form != _FORMAT:
        raise Tampered("it is not of this format")
    return bytes(key_id)


def _id(key: bytes) -> bytes:
    return hashlib.sha256(b"gantry encryption at rest\0" + key).digest()[:8]


def _decode(word: str) -> bytes | None:
    try:
        key = bytes.fromhex(word) if len(word) == 2 * KEY_BYTES else base64.b64decode(word, validate=True)
    except (ValueError, binascii.Error):
        return None
    return key if len(key) == KEY_BYTES else None


def ring_from(file: Path | None, environ: Mapping[str, str]) -> KeyRing | None:
    """From `--encryption-key-file`, or else the environment; None when neither is given. Raises SecretError."""
    if file is not None:
        return KeyRing.parse(read_text(file, "encryption key file"), f"encryption key file '{file}'")
    text = environ.get(VARIABLE, "")
    return KeyRing.parse(text.replace(",", "\n"), VARIABLE) if text.strip() else None
