"""Trusting keys: reading them with gpg, showing what they are, putting them where they count, taking them away again.

Only here the full `gpg` is needed (Debian: gnupg); at a pull `gpgv` does. A key is stored as gpg exports it, so that
what lies in the directory is one public key with the fingerprint that its file is named after.
"""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from executor.stage0.errors import ImageBroken, ImageNotFound, ImageRefused, StoreError
from executor.stage0.trust.keystore import Keystore

SECONDS = 60
MIN_RSA = 2048
_ALGORITHMS = {"1": "RSA", "2": "RSA", "3": "RSA", "17": "DSA", "19": "ECDSA", "22": "EdDSA"}
_GONE = {"r": "is revoked", "e": "has expired", "i": "is invalid", "d": "is disabled"}


@dataclass(frozen=True)
class PublicKey:
    """One primary key. fingerprint: 40 hex digits, lower case; problem: why it must not be trusted, "" for nothing."""

    fingerprint: str
    users: tuple[str, ...]
    algorithm: str
    problem: str
    armored: bytes

    @property
    def shown(self) -> str:
        """The fingerprint as people compare it."""
        digits = self.fingerprint.upper()
        return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def read(data: bytes, where: str) -> list[PublicKey]:
    """The public keys in a file, armored or not. ImageBroken names `where`; StoreError without gpg."""
    if b"PRIVATE KEY BLOCK" in data:
        raise ImageBroken(f"{where}: holds a secret key; export the public one (gpg --armor --export)")
    with tempfile.TemporaryDirectory(prefix="gantry-gpg-") as directory:
        home = Path(directory)
        if _gpg(home, "--import", data=data)[0]:
            raise ImageBroken(f"{where}: not an OpenPGP public key")
        listed = _gpg(home, "--with-colons", "--list-keys")[1].decode("utf-8", "replace")
        found = [
            PublicKey(
                fingerprint, users, algorithm, problem, _gpg(home, "--armor", "--export", fingerprint)[1]
            )
            for fingerprint, users, algorithm, problem in _parse(listed)
        ]
    if not found:
        raise ImageBroken(f"{where}: holds no OpenPGP public key")
    return found


def _gpg(home: Path, *argv: str, data: bytes = b"") -> tuple[int, bytes]:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-auto-check-trustdb", *argv]
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=SECONDS)
    except FileNotFoundError:
        raise StoreError("keys are read with gpg, which is not installed (Debian: gnupg)") from None
    except subprocess.TimeoutExpired:
        raise StoreError(f"gpg did not end within {SECONDS} seconds") from None
    return done.returncode, done.stdout


def _parse(listed: str) -> list[tuple[str, tuple[str, ...], str, str]]:
    """Of gpg's colon listing (`doc/DETAILS`): (fingerprint, user ids, algorithm, problem) of each primary key."""
    found: list[tuple[str, list[str], str, str]] = []
    kind = ""
    for line in listed.splitlines():
        fields = line.split(":")
        if fields[0] in {"pub", "sub", "uid"}:
            kind = fields[0]
        if fields[0] == "pub":
            name = _ALGORITHMS.get(fields[3], f"algorithm {fields[3]}")
            problem = _GONE.get(fields[1], "")
            if name == "DSA" or (name == "RSA" and int(fields[2] or 0) < MIN_RSA):
                problem = problem or f"is too weak ({name}, {fields[2]} bits)"
            found.append(("", [], f"{name} {fields[2]}", problem))
        elif fields[0] == "fpr" and kind == "pub" and found:
            found[-1] = (fields[9].lower(), *found[-1][1:])
        elif fields[0] == "uid" and found:
            found[-1][1].append(fields[9])
    return [(fingerprint, tuple(users), name, problem) for fingerprint, users, name, problem in found]


def add(keystore: Keystore, prefix: str, key: PublicKey) -> Path:
    """Trust a key for a prefix, "" for every name; the file. ImageRefused for a key with a problem, ValueError."""
    if key.problem:
        raise ImageRefused(f"key {key.fingerprint} {key.problem}: not trusted")
    place = keystore.directories[0] / keystore.place(prefix)
    path = place / key.fingerprint
    _write(path, key.armored)
    return path


def remove(keystore: Keystore, prefix: str, fingerprint: str) -> Path:
    """Do not trust a key any more; the file that was removed, or emptied because it hides a vendor's. ImageNotFound."""
    place = keystore.place(prefix)
    known = [path for there, print_, path in keystore.listing() if there == prefix and print_ == fingerprint]
    if not known:
        raise ImageNotFound(f"key {fingerprint} is not trusted for {prefix or 'every name (root)'}")
    path = keystore.directories[0] / place / fingerprint
    if any((directory / place / fingerprint).exists() for directory in keystore.directories[1:]):
        _write(path, b"")
        return path
    try:
        path.unlink()
        for parent in path.parents:
            if parent == keystore.directories[0]:
                break
            parent.rmdir()
    except OSError as error:
        if path.exists():
            raise StoreError(f"{path}: {error.strerror}") from None
    return path


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
