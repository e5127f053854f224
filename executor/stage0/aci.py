"""appc image archives: `manifest` + `rootfs/`, plain or packed with gzip, bzip2 or xz; one pass from file to tree.

Stricter than appc's own code where that is known to be lax (`rootfs-x/…`, a second `manifest`). The image's id is the
full sha512 of the plain tar. Source: appc spec 0.8.11 `aci.md`, `spec/aci/layout.go`.
"""

import os
import stat
from collections.abc import Iterable

from executor.stage0.errors import ImageBroken
from executor.stage0.extract import Extractor, Summary, clean_name
from executor.stage0.streams import Hashing, Limits, Reader, decompress
from executor.stage0.tarstream import Entry, Kind, TarReader

MAX_MANIFEST = 4 * 1024 * 1024


class _Contents:
    """Sorts an ACI's entries into manifest and rootfs."""

    def __init__(self, extractor: Extractor, limits: Limits) -> None:
        self._extractor, self._limits = extractor, limits
        self.manifest: bytes | None = None
        self.rootfs = False

    def add(self, entry: Entry, reader: TarReader) -> None:
        try:
            name = clean_name(entry.name, self._limits)
        except ImageBroken as error:
            raise ImageBroken(f"entry {entry.name[:200]!r}: {error}") from None
        if name == "manifest":
            self._read_manifest(entry, reader)
        elif name == "rootfs" or name.startswith("rootfs/"):
            self.rootfs = True
            entry.name = "./" + name[7:]
            if entry.kind is Kind.HARDLINK:
                entry.link = self._inside(entry)
            self._extractor.add(entry, reader)
        elif name:
            raise ImageBroken(f"entry {name[:200]!r}: an ACI holds 'manifest' and 'rootfs' only")

    def _read_manifest(self, entry: Entry, reader: TarReader) -> None:
        if self.manifest is not None:
            raise ImageBroken("entry 'manifest' is there twice")
        if entry.kind is not Kind.FILE or entry.size > MAX_MANIFEST:
            raise ImageBroken(f"entry 'manifest': a {entry.kind} of {entry.size} bytes")
        self.manifest = b"".join(iter(lambda: reader.read(65536), b""))

    def _inside(self, entry: Entry) -> str:
        """Hard links name their target from the archive's root."""
        target = clean_name(entry.link, self._limits)
        if not target.startswith("rootfs/"):
            raise ImageBroken(f"entry {entry.name[:200]!r}: hard link to {target[:200]!r}, outside of rootfs")
        return target[7:]

    def finish(self) -> Summary:
        return self._extractor.finish()


def keep_only(root: int, whitelist: Iterable[str]) -> None:
    """Remove everything but the files and directories of a pathWhitelist (and the directories above them)."""
    kept = {os.path.normpath(path).strip("/") for path in whitelist}
    for directory, names, files, fd in os.fwalk(".", topdown=False, follow_symlinks=False, dir_fd=root):
        info = os.fstat(fd)
        for name in files + names:
            path = os.path.normpath(os.path.join(directory, name))
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
            if path in kept:
                continue
            if not is_directory:
                os.unlink(name, dir_fd=fd)
            elif not any(k.startswith(f"{path}/") for k in kept):
                os.rmdir(name, dir_fd=fd)
        os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))


def unpack(source: Reader, root: int, limits: Limits) -> tuple[str, Summary, bytes]:
    """An ACI's rootfs into the empty directory `root`: (sha512 of the plain tar, what was made, the manifest)."""
    tar = Hashing(decompress(source, limits, {"gzip", "bzip2", "xz"}), "sha512")
    reader = TarReader(tar, limits)
    contents = _Contents(Extractor(root, limits, whiteouts=False, repeats=False), limits)
    while (entry := reader.next()) is not None:
        contents.add(entry, reader)
    tar.drain()
    if contents.manifest is None or not contents.rootfs:
        missing = "manifest" if contents.manifest is None else "rootfs"
        raise ImageBroken(f"no {missing!r} in it: not an ACI")
    return tar.digest(), contents.finish(), contents.manifest
