"""Detached OpenPGP signatures, checked by GnuPG's `gpgv`; nothing of the cryptography is ours.

gpgv gets a keyring of exactly the keys in question, a private home, and the data through a pipe; its machine-readable
status is read strictly. Its exit code is not enough: it is 0 for revoked and expired keys and for SHA-1 signatures.
Source: GnuPG `doc/DETAILS`.
"""

import base64
import binascii
import hashlib
import io
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from executor.stage0.errors import ImageUntrusted, StoreError
from executor.stage0.streams import CHUNK, Reader
from executor.stage0.trust.keystore import read_key

MAX_SIGNATURE = 1024 * 1024
MAX_STATUS = 1024 * 1024
SECONDS = 3600  # for the data of a large image from a slow source; gpgv itself takes no time
_ARMOR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[^\n]*\r?\n(?:[!-~]+: [^\n]*\r?\n)*[ \t]*\r?\n(.*?)"
    rb"-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL,
)
_DIGESTS = {"8": "SHA-256", "9": "SHA-384", "10": "SHA-512"}
_WEAK = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160", "11": "SHA-224"}
_REFUSED = {
    "REVKEYSIG": "key {} is revoked",
    "EXPKEYSIG": "key {} has expired",
    "EXPSIG": "the signature of key {} has expired",
}


@dataclass(frozen=True)
class Checked:
    """What gpgv saw: sha512 of the data and the primary fingerprints, lower case, whose signatures are good."""

    digest: str
    signers: tuple[str, ...]


def dearmor(data: bytes) -> bytes:
    """The packets of a public key file, armored or not; gpgv takes only bare ones. ValueError."""
    if not data.lstrip().startswith(b"-----BEGIN"):
        return data
    blocks = _ARMOR.findall(data)
    if not blocks:
        raise ValueError("not an OpenPGP public key")
    packets = b""
    for block in blocks:
        lines = [line.strip() for line in block.split(b"\n")]
        body = b"".join(line for line in lines if not (line.startswith(b"=") and len(line) == 5))
        try:
            packets += base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise ValueError(f"a damaged OpenPGP public key: {error}") from None
    return packets


def verify(source: Reader, signature: bytes, keys: Mapping[str, Path]) -> Checked:
    """Check a detached signature, armored or binary, over all that `source` gives, with `keys` (fingerprint → file).

    ImageUntrusted when none of the keys made a good one, or any signature does not fit; StoreError without gpgv.
    """
    if not signature or len(signature) > MAX_SIGNATURE:
        raise ImageUntrusted(f"the signature file has {len(signature)} bytes")
    with tempfile.TemporaryDirectory(prefix="gantry-gpgv-") as directory:
        home = Path(directory)
        with (home / "keys").open("wb") as ring:
            for path in keys.values():
                try:
                    ring.write(dearmor(read_key(path)))
                except ValueError as error:
                    raise StoreError(f"key {path}: {error}") from None
        (home / "signature").write_bytes(signature)
        # Asked about no data first: a key that vouches for itself with SHA-1, as those before 2016 do, is no key to a
        # strict gpgv (code 6). Its owner's name and parts are then not believed, but the primary key itself was trusted
        # by its fingerprint, and what it has signed is checked by a digest that is not weak.
        _, status = _run(home, io.BytesIO(b""))
        old = any(len(one.get("ERRSIG", ())) > 5 and one["ERRSIG"][5] == "6" for one in _signatures(status))
        digest, status = _run(home, source, strict=not old)
    return Checked(digest, judge(status, keys, only_primary=old))


def _run(home: Path, source: Reader, *, strict: bool = True) -> tuple[str, list[str]]:
    argv = [
        "gpgv", "--homedir", str(home), "--keyring", str(home / "keys"), "--status-fd", "1", "--quiet",
        *(("--weak-digest", "SHA1") if strict else ()), "--weak-digest", "RIPEMD160",
        "--", str(home / "signature"), "-",
    ]  # fmt: skip
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "GNUPGHOME": str(home)}
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
        )
    except FileNotFoundError:
        raise StoreError("signatures are checked with gpgv, which is not installed (Debian: gpgv)") from None
    output: list[bytes] = []
    assert process.stdin is not None
    assert process.stdout is not None
    # Read beside the feeding: a full pipe would stop both.
    collector = threading.Thread(target=lambda: output.append(process.stdout.read(MAX_STATUS)))  # type: ignore[union-attr]
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.daemon = True
    collector.start()
    watchdog.start()
    hashed = hashlib.sha512()
    try:
        while data := source.read(CHUNK):
            hashed.update(data)
            try:
                process.stdin.write(data)
            except BrokenPipeError:
                break  # it has made up its mind; the status says how
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
        process.wait()
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        collector.join()
        process.stdout.close()
        if not process.stdin.closed:
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
    return f"sha512:{hashed.hexdigest()}", b"".join(output).decode("utf-8", "replace").splitlines()


def judge(status: list[str], trusted: Mapping[str, object], *, only_primary: bool = False) -> tuple[str, ...]:
    """The trusted primary fingerprints with a good signature (only_primary: not those of its subkeys). ImageUntrusted
    says why there is none."""
    good: list[str] = []
    problems: list[str] = []
    for group in _signatures(status):
        if "BADSIG" in group:
            who = group["BADSIG"][:1]
            raise ImageUntrusted(
                f"the signature of key {''.join(who)} does not fit the file: one of both was changed"
            )
        signer, problem = _one(group, trusted)
        if signer and only_primary and group["VALIDSIG"][0].lower() != signer:
            signer, problem = (
                "",
                f"key {signer} vouches for the subkey that signed with a digest that is too weak",
            )
        if signer:
            good.append(signer)
        else:
            problems.append(problem)
    if good:
        return tuple(dict.fromkeys(good))
    raise ImageUntrusted("; ".join(dict.fromkeys(problems)) or "the signature file holds no signature")


def _signatures(status: list[str]) -> list[dict[str, list[str]]]:
    """Status lines by signature: keyword → its arguments."""
    groups: list[dict[str, list[str]]] = []
    for line in status:
        words = line.split(" ")
        if words[0] != "[GNUPG:]" or len(words) < 2:
            continue
        if words[1] == "NEWSIG":
            groups.append({})
        elif groups and words[1] not in groups[-1]:
            groups[-1][words[1]] = words[2:]
        elif groups and words[1] in {"GOODSIG", "VALIDSIG"}:
            groups[-1]["TWICE"] = []
    return groups


def _one(group: Mapping[str, list[str]], trusted: Mapping[str, object]) -> tuple[str, str]:
    """(fingerprint, "") of a good signature, else ("", why not)."""
    for word, text in _REFUSED.items():
        if word in group:
            return "", text.format("".join(group[word][:1]))
    if "ERRSIG" in group:
        words = [*group["ERRSIG"], *[""] * 7]
        key = words[6] if len(words[6]) >= 40 else words[0]
        if words[5] == "9":
            return "", f"it is signed by key {key}, which is not trusted for it"
        if words[2] in _WEAK:
            return "", f"the signature of key {key} uses {_WEAK[words[2]]}, which is too weak"
        return "", f"the signature of key {key} cannot be checked (gpgv: code {words[5]})"
    valid = group.get("VALIDSIG", [])
    if "GOODSIG" not in group or "TWICE" in group or len(valid) < 10:
        return "", "gpgv did not say that the signature is good"
    digest, kind, primary = valid[7], valid[8], valid[9].lower()
    if digest not in _DIGESTS:
        return (
            "",
            f"the signature of key {primary} uses {_WEAK.get(digest, f'digest {digest}')}, which is too weak",
        )
    if kind not in {"00", "01"}:
        return "", f"the signature of key {primary} is not one of a file (class {kind})"
    if primary not in trusted:
        return "", f"it is signed by key {primary}, which is not trusted for it"
    return primary, ""
