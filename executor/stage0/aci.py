"""appc image archives: `manifest` + `rootfs/`, plain or packed with gzip, bzip2 or xz; one pass from file to tree.

Stricter than appc's own code where that is known to be lax (`rootfs-x/…`, a second `manifest`). The image's id is the
full sha512 of the plain tar. Source: appc spec 0.8.11 `aci.md`, `spec/aci/layout.go`.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from executor.stage0.errors import ImageBroken, StoreError
from executor.stage0.extract import Extractor, Summary, clean_name
from executor.stage0.split import Tap
from executor.stage0.streams import Hashing, Limits, Reader, decompress
from executor.stage0.tarstream import Entry, Kind, TarReader

_IDS = 65_536  # of a pod's own, executor/stage1/userns
MAX_MANIFEST = 4 * 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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


@dataclass(frozen=True)
class Unpacked:
    """digest: sha512 of the plain tar, of so many bytes."""

    digest: str
    size: int
    summary: Summary
    manifest: bytes


def unpack(source: Reader, root: int, limits: Limits, split: Path) -> Unpacked:
    """An ACI's rootfs into the empty directory `root`, the rest of the tar into the file `split`."""
    tar = Hashing(decompress(source, limits, {"gzip", "bzip2", "xz"}), "sha512")
    tap = Tap(tar, split, root)
    try:
        reader = TarReader(tap, limits)
        extractor = Extractor(root, limits, whiteouts=False, repeats=False, note=tap.entry)
        contents = _Contents(extractor, limits)
        while (entry := reader.next()) is not None:
            contents.add(entry, reader)
        tap.drain()
    finally:
        tap.close()
    if contents.manifest is None or not contents.rootfs:
        missing = "manifest" if contents.manifest is None else "rootfs"
        raise ImageBroken(f"no {missing!r} in it: not an ACI")
    return Unpacked(tar.digest(), tar.count, contents.finish(), contents.manifest)


def render(
    trees: Sequence[Path],
    root: int,
    whitelist: Iterable[str] | None = None,
    *,
    user_attributes: bool = False,
    ids: int = 0,
) -> Summary:
    """What overlayfs would show of `trees` (uppermost first), copied into the empty directory `root`.

    With a pathWhitelist, of it only those paths and the directories above them. user_attributes: the uppermost was
    written by an overlay with the option userxattr. ids: the first of a pod's own user ids, to which the files of the
    uppermost belong. Sockets are left out. StoreError; ImageBroken names a device node.
    """
    fds: list[int] = []
    try:
        fds.extend(os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for tree in trees)
        return _Copy(root, fds, whitelist, fds[0] if user_attributes else -1, ids).run()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise StoreError(f"rendering: {where}{error.strerror}") from None
    finally:
        for fd in fds:
            os.close(fd)


class _Copy:
    """Merges and copies; paths are relative to the trees' roots."""

    def __init__(
        self, root: int, trees: Sequence[int], whitelist: Iterable[str] | None, user: int, ids: int
    ) -> None:
        """user: the tree whose overlay keeps its notes in user.* attributes; -1: there is none."""
        self._root, self._trees, self._user, self._ids = root, trees, user, ids
        self._kept: set[str] | None = None
        if whitelist is not None:
            kept = {os.path.normpath(path).strip("/") for path in whitelist} - {".", ""}
            self._kept = kept | {path[:at] for path in kept for at in range(len(path)) if path[at] == "/"}
        self._notes = ("trusted.", "user.overlay.") if user >= 0 else ("trusted.",)
        self._links: dict[tuple[int, int], str] = {}
        self._bytes = self._entries = 0

    def run(self) -> Summary:
        directories: list[tuple[str, int]] = []
        todo: list[tuple[str, list[int]]] = [("", list(self._trees))]
        while todo:
            path, trees = todo.pop()
            if path:
                os.mkdir(path, 0o700, dir_fd=self._root)
            directories.append((path, trees[0]))
            for name, there in self._children(path, trees).items():
                if isinstance(there, list):
                    todo.append((name, there))
                else:
                    self._leaf(name, there)
        for path, tree in reversed(directories):
            fd = os.open(path or ".", _DIRECTORY, dir_fd=tree)
            try:
                self._attributes(fd, path or ".", os.fstat(fd), tree)
            finally:
                os.close(fd)
        return Summary(self._entries + len(directories) - 1, self._bytes, set())

    def _children(self, path: str, trees: list[int]) -> dict[str, int | list[int]]:
        """Kept names of a directory → the tree that has it; of a directory all trees, down to what hides the others."""
        found: dict[str, int | list[int]] = {}
        hidden: set[str] = set()
        for tree in trees:
            fd = os.open(path or ".", _DIRECTORY, dir_fd=tree)
            try:
                with os.scandir(fd) as entries:
                    infos = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
                opaque = f"{'user' if tree == self._user else 'trusted'}.overlay.opaque" in os.listxattr(fd)
            finally:
                os.close(fd)
            for base, info in infos.items():
                name = f"{path}/{base}" if path else base
                if name in hidden or (self._kept is not None and name not in self._kept):
                    continue
                above = found.get(name)
                is_directory = stat.S_ISDIR(info.st_mode)
                if above is None and not _is_whiteout(info):
                    found[name] = [tree] if is_directory else tree
                elif is_directory and isinstance(above, list):
                    above.append(tree)
                if not is_directory:
                    hidden.add(name)
            if opaque:
                break
        return found

    def _leaf(self, path: str, tree: int) -> None:
        info = os.stat(path, dir_fd=tree, follow_symlinks=False)
        if stat.S_ISSOCK(info.st_mode):
            return  # nobody listens there any more, and nothing could be told of it
        if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            raise ImageBroken(f"{path}: a device node cannot be part of an image; remove it")
        self._entries += 1
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(path, dir_fd=tree), path, dir_fd=self._root)
            os.chown(path, *self._whose(info, tree), dir_fd=self._root, follow_symlinks=False)
            os.utime(path, ns=(info.st_mtime_ns,) * 2, dir_fd=self._root, follow_symlinks=False)
            return
        if stat.S_ISFIFO(info.st_mode):
            os.mkfifo(path, 0o600, dir_fd=self._root)
            os.chown(path, *self._whose(info, tree), dir_fd=self._root)
            os.chmod(path, stat.S_IMODE(info.st_mode), dir_fd=self._root)
            os.utime(path, ns=(info.st_mtime_ns,) * 2, dir_fd=self._root)
            return
        first = self._links.setdefault((tree, info.st_ino), path)
        if first != path:
            os.link(first, path, src_dir_fd=self._root, dst_dir_fd=self._root, follow_symlinks=False)
            return
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tree)
        try:
            self._file(source, path, info, tree)
        finally:
            os.close(source)

    def _file(self, source: int, path: str, info: os.stat_result, tree: int) -> None:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._root)
        try:
            while os.sendfile(target, source, None, 1 << 30):
                pass
        finally:
            os.close(target)
        self._attributes(source, path, info, tree)
        self._bytes += info.st_size

    def _whose(self, info: os.stat_result, tree: int) -> tuple[int, int]:
        """User and group."""
        if not self._ids or tree != self._trees[0]:
            return info.st_uid, info.st_gid
        uid, gid = (one - self._ids for one in (info.st_uid, info.st_gid))
        return (uid if 0 <= uid < _IDS else info.st_uid), (gid if 0 <= gid < _IDS else info.st_gid)

    def _attributes(self, source: int, path: str, info: os.stat_result, tree: int) -> None:
        """Owner before mode and attributes: chown clears set-uid bits and file capabilities."""
        target = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        try:
            os.fchown(target, *self._whose(info, tree))
            os.fchmod(target, stat.S_IMODE(info.st_mode))
            for name in os.listxattr(source):
                if not name.startswith(self._notes):
                    os.setxattr(target, name, os.getxattr(source, name))
            os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))
        finally:
            os.close(target)


def _is_whiteout(info: os.stat_result) -> bool:
    """overlayfs' sign for "removed"."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
