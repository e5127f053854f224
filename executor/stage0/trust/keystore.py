"""Trusted OpenPGP keys on disk, in rkt's layout.

    DIRECTORY/root.d/FINGERPRINT             trusted for every name
    DIRECTORY/prefix.d/example.com/a/FINGERPRINT   for example.com/a and what is below it, by components

A file holds the armored public key and is named after its primary fingerprint in lower case. The first directory is
the administrator's, the others the vendor's: an empty file in an earlier one takes a key of a later one away. Source:
rkt `Documentation/signing-and-verification-guide.md`, `pkg/keystore`; unlike there, prefixes match whole components.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from executor.stage0.errors import StoreError

DEFAULT_DIRECTORIES = (Path("/etc/gantry/trustedkeys"), Path("/usr/lib/gantry/trustedkeys"))
MAX_KEY = 1024 * 1024
_NAME = re.compile(r"[0-9a-f]{40}")
_PREFIX = re.compile(r"[a-z0-9]+([-._~/][a-z0-9]+)*")


class Keystore:
    """The keys of some directories, looked up anew with every question: a removed one counts at once."""

    def __init__(self, directories: tuple[Path, ...] = DEFAULT_DIRECTORIES) -> None:
        self.directories = directories
        self._digests: dict[Path, tuple[tuple[int, ...], str]] = {}

    def keys(self, name: str) -> dict[str, Path]:
        """fingerprint → file of the keys that are trusted for an image name."""
        found = self._in(Path("root.d"))
        place = Path("prefix.d")
        for part in name.split("/") if _PREFIX.fullmatch(name) else ():
            place /= part
            found |= self._in(place)
        return found

    def all(self) -> dict[str, Path]:
        """Every trusted key, whatever it is trusted for."""
        return {fingerprint: path for _, fingerprint, path in self.listing()}

    def listing(self) -> Iterator[tuple[str, str, Path]]:
        """(prefix, fingerprint, file) of every key in force; the prefix of root keys is ""."""
        places = {Path("root.d")}
        for directory in self.directories:
            for parent, _, _ in os.walk(directory / "prefix.d"):
                places.add(Path(parent).relative_to(directory))
        for place in sorted(places):
            prefix = "/".join(place.parts[1:])
            for fingerprint, path in sorted(self._in(place).items()):
                yield prefix, fingerprint, path

    def place(self, prefix: str) -> Path:
        """Where keys of a prefix ("" for root) are, below a directory. ValueError for what is no prefix."""
        if not prefix:
            return Path("root.d")
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} is not a prefix of appc names, like example.com/team")
        return Path("prefix.d", *prefix.split("/"))

    def digest(self, path: Path) -> str:
        """sha256 of a key file, "" when it is not there; read again only when the file has changed."""
        try:
            info = path.stat()
        except OSError:
            return ""
        seen = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        known = self._digests.get(path)
        if known is None or known[0] != seen:
            known = (seen, hashlib.sha256(read_key(path)).hexdigest())
            self._digests[path] = known
        return known[1]

    def _in(self, place: Path) -> dict[str, Path]:
        """The first directory that has a file of a name decides; an empty one says no."""
        found: dict[str, Path] = {}
        masked: set[str] = set()
        for directory in self.directories:
            try:
                entries = list(os.scandir(directory / place))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise StoreError(f"trusted keys: {directory / place}: {error.strerror}") from None
            for entry in entries:
                if not _NAME.fullmatch(entry.name) or entry.name in found or entry.name in masked:
                    continue
                info = entry.stat()
                if not stat.S_ISREG(info.st_mode):
                    continue
                if info.st_size == 0:
                    masked.add(entry.name)
                else:
                    found[entry.name] = Path(entry.path)
        return found


def read_key(path: Path) -> bytes:
    """A key file's content. StoreError, also for one that everybody may write."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o002:
                raise StoreError(f"key {path}: everybody may write it; chmod o-w")
            data = file.read(MAX_KEY + 1)
    except OSError as error:
        raise StoreError(f"key {path}: {error.strerror}") from None
    if len(data) > MAX_KEY:
        raise StoreError(f"key {path}: longer than {MAX_KEY} bytes")
    return data
