"""Tar stream → directory tree, for trees that nobody else writes to while we do.

Safety does not rest on the kernel following or not following links, but on a map of what this extraction has made:
an entry is written only below directories that are in the map as real directories. So there is no path through a
link, ours or anybody's; the target directory is private (0700, in the store's tmp) until it is renamed into place.

Refused: absolute names and `..`, names below a link or a file, symlinks that climb above the root, hard links to
anything but an earlier file, device nodes, a directory that turns into something else, `trusted.*` attributes
(overlayfs takes orders from them), more than the limits allow. Absolute symlinks are normal in images; they are
resolved inside the container only.

OCI whiteouts become overlayfs': `.wh.NAME` → character device 0:0 called NAME, `.wh..wh..opq` → the attribute
`trusted.overlay.opaque`. A directory that a layer both removes and makes anew is opaque. Sources: OCI image-spec
`layer.md`, kernel Documentation/filesystems/overlayfs.rst.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from executor.stage0.errors import ImageBroken, StoreError
from executor.stage0.streams import CHUNK, Limits
from executor.stage0.tarstream import Entry, Kind, TarReader

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_MAX_ID = 2**32 - 2
MAX_DEPTH = 256  # directories below one another; what walks trees need not be afraid of them
Note = Callable[[Entry, str], None]
_MENTIONED = Entry("", Kind.FILE, 0, 0, 0, 0, 0)  # stands for "made by an entry of its own"
SKIPPED_XATTRS = ("security.selinux", "security.ima", "security.evm", "system.", "com.apple.")


@dataclass
class Summary:
    """What was extracted; skipped_xattrs are names that were left out because they mean nothing on another host."""

    entries: int = 0
    bytes: int = 0
    skipped_xattrs: set[str] | None = None


class Extractor:
    """Extracts into an empty directory. `whiteouts`: OCI layer rules; without: every name is just a name (ACI).

    `repeats`: a later file may replace an earlier one of the same name (OCI says nothing, builders do it); without it
    a repeated name is an error, as appc demands. note: told of every entry before it is made, and its name in the tree.
    """

    def __init__(
        self,
        root: int,
        limits: Limits,
        *,
        whiteouts: bool = True,
        repeats: bool = True,
        note: Note | None = None,
    ) -> None:
        self._root, self._limits, self._note = root, limits, note
        self._whiteouts, self._repeats = whiteouts, repeats
        self._made: dict[str, Kind] = {"": Kind.DIRECTORY}
        self._directories: dict[str, Entry | None] = {"": None}
        self._hidden: set[str] = set()
        self._opaque: set[str] = set()
        self._skipped: set[str] = set()
        self._bytes = 0
        # What the kernel gives new files anyway needs no chown: worth a third of the system calls of a usual layer.
        self._owner = (os.geteuid(), os.getegid())

    def add(self, entry: Entry, reader: TarReader) -> None:
        """Make one entry. ImageBroken names the entry and the rule; StoreError when the disk says no."""
        shown = entry.name[:200]
        try:
            self._add(entry, clean_name(entry.name, self._limits), reader)
        except ImageBroken as error:
            raise ImageBroken(f"entry {shown!r}: {error}") from None
        except OSError as error:
            # A name too long or an attribute that cannot be is the image's fault, all else this machine's.
            kind = ImageBroken if error.errno in _IMAGE_ERRNO else StoreError
            raise kind(f"entry {shown!r}: {error.strerror}") from error

    def finish(self) -> Summary:
        """Whiteouts, opaque marks, then owners, modes and times of the directories, deepest first."""
        try:
            self._make_whiteouts()
            for name in sorted(self._directories, key=lambda n: n.count("/"), reverse=True):
                self._finish_directory(name)
        except OSError as error:
            raise StoreError(f"finishing the tree: {error.strerror}") from error
        return Summary(len(self._made) - 1, self._bytes, self._skipped)

    def _add(self, entry: Entry, name: str, reader: TarReader) -> None:
        if not 0 <= entry.uid <= _MAX_ID or not 0 <= entry.gid <= _MAX_ID:
            raise ImageBroken(f"owner {entry.uid}:{entry.gid} is out of range")
        self._check_xattrs(entry)
        if not name:
            self._root_entry(entry)
            return
        if self._whiteouts and self._whiteout(name):
            return
        if self._note is not None:
            self._note(entry, name)
        self._parents(name)
        self._make_room(name, entry.kind)
        match entry.kind:
            case Kind.DIRECTORY:
                self._directory(name, entry)
            case Kind.FILE:
                self._file(name, entry, reader)
            case Kind.SYMLINK:
                self._symlink(name, entry)
            case Kind.HARDLINK:
                self._hardlink(name, entry)
            case Kind.FIFO:
                os.mkfifo(name, 0o600, dir_fd=self._root)
                self._attributes(name, entry)
            case Kind.DEVICE:
                raise ImageBroken("device nodes are refused")
        self._made[name] = Kind.FILE if entry.kind is Kind.HARDLINK else entry.kind

    def _root_entry(self, entry: Entry) -> None:
        if entry.kind is not Kind.DIRECTORY:
            raise ImageBroken("the root has to be a directory")
        if not self._repeats and self._directories[""] is not None:
            raise ImageBroken("is there twice")
        self._directories[""] = entry

    def _whiteout(self, name: str) -> bool:
        parent, _, base = name.rpartition("/")
        if parent.startswith(WHITEOUT) or f"/{WHITEOUT}" in parent:
            raise ImageBroken("lies below the name of a whiteout")
        if not base.startswith(WHITEOUT):
            return False
        self._parents(name)
        if base == OPAQUE:
            self._opaque.add(parent)
            return True
        target = base.removeprefix(WHITEOUT)
        if target.startswith(WHITEOUT):
            return True  # aufs' own files (.wh..wh.plnk, .wh..wh.aufs): Docker leaves them out as well
        if target in {"", ".", ".."}:
            raise ImageBroken("a whiteout without a name")
        self._hidden.add(f"{parent}/{target}" if parent else target)
        return True

    def _parents(self, name: str) -> None:
        """Every directory above `name`, made when nobody mentioned it."""
        at = name.find("/")
        while at >= 0:
            parent = name[:at]
            kind = self._made.get(parent)
            if kind is None:
                os.mkdir(parent, 0o700, dir_fd=self._root)
                self._made[parent] = Kind.DIRECTORY
                self._directories[parent] = None
                self._count_made()
            elif kind is not Kind.DIRECTORY:
                raise ImageBroken(f"goes through {parent!r}, which is a {kind}")
            at = name.find("/", at + 1)

    def _count_made(self) -> None:
        if len(self._made) > self._limits.entries:
            raise ImageBroken(f"more than {self._limits.entries} files and directories")

    def _make_room(self, name: str, kind: Kind) -> None:
        there = self._made.get(name)
        if there is None:
            return
        if not self._repeats and self._directories.get(name, _MENTIONED) is not None:
            raise ImageBroken("is there twice")
        if there is Kind.DIRECTORY or kind is Kind.DIRECTORY:
            if there is not kind:
                raise ImageBroken(f"is there twice: a {there}, then a {kind}")
            return
        os.unlink(name, dir_fd=self._root)
        del self._made[name]

    def _directory(self, name: str, entry: Entry) -> None:
        if name not in self._directories:
            os.mkdir(name, 0o700, dir_fd=self._root)
        self._directories[name] = entry

    def _file(self, name: str, entry: Entry, reader: TarReader) -> None:
        fd = os.open(
            name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=self._root,
        )
        try:
            while data := reader.read(CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            self._attributes(fd, entry)
        finally:
            os.close(fd)
        self._bytes += entry.size

    def _symlink(self, name: str, entry: Entry) -> None:
        target = entry.link
        if not target or len(os.fsencode(target)) > self._limits.path_bytes:
            raise ImageBroken("a symlink with an empty or endless target")
        if not target.startswith("/"):  # an absolute one begins at the image's root, and `/..` is `/`
            depth = name.count("/")
            for part in target.split("/"):
                depth += -1 if part == ".." else part not in {"", "."}
                if depth < 0:
                    raise ImageBroken(f"symlink to {target!r} leads out of the image")
        os.symlink(target, name, dir_fd=self._root)
        if (entry.uid, entry.gid) != self._owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=self._root, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=self._root, follow_symlinks=False)

    def _hardlink(self, name: str, entry: Entry) -> None:
        target = clean_name(entry.link, self._limits)
        kind = self._made.get(target)
        if kind not in {Kind.FILE, Kind.SYMLINK, Kind.FIFO}:
            what = "is not an earlier entry of this layer" if kind is None else f"is a {kind}"
            raise ImageBroken(f"hard link to {entry.link!r}, which {what}")
        os.link(target, name, src_dir_fd=self._root, dst_dir_fd=self._root, follow_symlinks=False)

    def _attributes(self, target: int | str, entry: Entry) -> None:
        """Owner before mode and attributes: chown clears set-uid bits and file capabilities."""
        if isinstance(target, str):
            os.chown(target, entry.uid, entry.gid, dir_fd=self._root, follow_symlinks=False)
            os.chmod(target, entry.mode, dir_fd=self._root)
            os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=self._root, follow_symlinks=False)
            return
        if (entry.uid, entry.gid) != self._owner:
            os.fchown(target, entry.uid, entry.gid)
        os.fchmod(target, entry.mode)
        self._set_xattrs(target, entry)
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))

    def _check_xattrs(self, entry: Entry) -> None:
        for key in entry.xattrs:
            if key.startswith("trusted."):
                raise ImageBroken(f"attribute {key[:100]!r} is refused: it would steer overlayfs")
            if key.startswith(SKIPPED_XATTRS):
                self._skipped.add(key)
            elif not (key.startswith("user.") or key == "security.capability"):
                raise ImageBroken(f"attribute {key[:100]!r} is refused")

    def _set_xattrs(self, fd: int, entry: Entry) -> None:
        for key, value in entry.xattrs.items():
            if key not in self._skipped:
                os.setxattr(fd, key, value)

    def _make_whiteouts(self) -> None:
        for name in sorted(self._hidden):
            there = self._made.get(name)
            if there is Kind.DIRECTORY:
                self._opaque.add(name)
            elif there is None:
                os.mknod(name, stat.S_IFCHR | 0o600, 0, dir_fd=self._root)

    def _finish_directory(self, name: str) -> None:
        entry = self._directories[name]
        fd = os.open(
            name or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root
        )
        try:
            if entry is None:
                os.fchmod(fd, 0o755)
                os.utime(fd, ns=(0, 0))
            else:
                self._attributes(fd, entry)
            if name in self._opaque:
                os.setxattr(fd, "trusted.overlay.opaque", b"y")
        finally:
            os.close(fd)


_IMAGE_ERRNO = frozenset({22, 36, 34, 7})  # EINVAL, ENAMETOOLONG, ERANGE, E2BIG


def clean_name(name: str, limits: Limits) -> str:
    """`./usr/bin/` → `usr/bin`, "" for the root. ImageBroken for absolute names, `..` and endless ones."""
    if len(name) > limits.path_bytes or len(os.fsencode(name)) > limits.path_bytes:
        raise ImageBroken("the name is too long")
    if name.startswith("/"):
        raise ImageBroken("the name is absolute")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ImageBroken("the name has '..' in it")
    if not parts and not name:
        raise ImageBroken("the name is empty")
    if len(parts) > MAX_DEPTH:
        raise ImageBroken(f"more than {MAX_DEPTH} directories below one another")
    return "/".join(parts)


def extract(reader: TarReader, root: int, limits: Limits, note: Note | None = None) -> Summary:
    """A whole OCI layer into the empty directory `root` (an fd)."""
    extractor = Extractor(root, limits, note=note)
    while (entry := reader.next()) is not None:
        extractor.add(entry, reader)
    return extractor.finish()
