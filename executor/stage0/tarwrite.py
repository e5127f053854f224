"""Deterministic tar of a directory: the same files give the same bytes, on any machine, at any time.

Entries are sorted, user names and device numbers of the host left out, times set to one value unless asked for.
pax headers are written only where ustar has no room (long names, large ids, extended attributes).
Refused, as they would not survive the way back: device nodes, sockets, names that mean whiteouts.
"""

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from executor.stage0.errors import ImageBroken, StoreError
from executor.stage0.streams import CHUNK
from executor.stage0.tarstream import BLOCK

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_XATTRS = ("user.", "security.capability")


class Sink(Protocol):
    """Where the tar goes."""

    def write(self, data: bytes, /) -> object: ...


def header(
    name: str, *, mode: int, size: int = 0, kind: bytes = b"0", uid: int = 0, gid: int = 0, mtime: int = 0,
    link: str = "", xattrs: dict[str, bytes] | None = None,
) -> bytes:  # fmt: skip
    """One entry's header blocks. kind is the ustar type flag."""
    pax: dict[str, bytes] = {f"SCHILY.xattr.{k}": v for k, v in sorted((xattrs or {}).items())}
    raw, target = os.fsencode(name), os.fsencode(link)
    if len(raw) > 100:
        pax["path"] = raw
    if len(target) > 100:
        pax["linkpath"] = target
    numbers = {"uid": (uid, 7), "gid": (gid, 7), "size": (size, 11), "mtime": (mtime, 11)}
    for key, (value, digits) in numbers.items():
        if not 0 <= value < 8**digits:
            pax[key] = b"%d" % value
    fields = {key: value if key not in pax else 0 for key, (value, _) in numbers.items()}
    block = _block(raw[:100], mode, fields, kind, target[:100])
    if not pax:
        return block
    records = b"".join(_record(os.fsencode(key), value) for key, value in sorted(pax.items()))
    plain = {"uid": 0, "gid": 0, "size": len(records), "mtime": 0}
    return (
        _block(b"PaxHeaders/entry", 0o644, plain, b"x", b"") + records + bytes(-len(records) % BLOCK) + block
    )


def trailer() -> bytes:
    """The end of an archive."""
    return bytes(2 * BLOCK)


def write_tree(root: Path, sink: Sink, *, prefix: str = "", mtime: Callable[[os.stat_result], int]) -> int:
    """The content of `root` (not root itself) below `prefix`; gives the number of entries. ImageBroken names a file.

    mtime gives an entry's time in seconds. Hard links within the tree stay hard links.
    """
    seen: dict[tuple[int, int], str] = {}
    count, path = 0, "."
    try:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path, info in walk(top):
                _write_entry(top, path, info, prefix + path, sink, mtime(info), seen)
                count += 1
        finally:
            os.close(top)
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        raise StoreError(f"{root}/{where}: {error.strerror}") from None
    except ImageBroken as error:
        raise ImageBroken(f"{root}/{error}") from None
    return count


def walk(top: int) -> Iterator[tuple[str, os.stat_result]]:
    """What is below a directory, however deep: paths in it, depth first, names in byte order, parents before children.

    Raises OSError.
    """
    todo = [""]
    while todo:
        path = todo.pop()
        if path:
            info = os.stat(path, dir_fd=top, follow_symlinks=False)
            yield path, info
            if not stat.S_ISDIR(info.st_mode):
                continue
        fd = os.open(path or ".", _DIRECTORY, dir_fd=top)
        try:
            names = sorted(os.listdir(fd), key=os.fsencode, reverse=True)
        finally:
            os.close(fd)
        todo += [f"{path}/{name}" if path else name for name in names]


def _write_entry(
    top: int, path: str, info: os.stat_result, name: str, sink: Sink, mtime: int, seen: dict[tuple[int, int], str],
) -> None:  # fmt: skip
    if os.path.basename(name).startswith(".wh."):
        raise ImageBroken(f"{path}: names that start with .wh. mean removal in an image; rename it")
    mode = stat.S_IMODE(info.st_mode)
    make = partial(header, uid=info.st_uid, gid=info.st_gid, mtime=mtime)
    if stat.S_ISLNK(info.st_mode):
        sink.write(make(name, mode=0o777, kind=b"2", link=os.readlink(path, dir_fd=top)))
    elif stat.S_ISFIFO(info.st_mode):
        sink.write(make(name, mode=mode, kind=b"6"))
    elif stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
        first = seen.setdefault((info.st_dev, info.st_ino), name) if info.st_nlink > 1 else name
        if first != name and stat.S_ISREG(info.st_mode):
            sink.write(make(name, mode=mode, kind=b"1", link=first))
            return
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        try:
            xattrs = {key: os.getxattr(fd, key) for key in os.listxattr(fd) if key.startswith(_KEPT_XATTRS)}
            if stat.S_ISDIR(info.st_mode):
                sink.write(make(name + "/", mode=mode, kind=b"5", xattrs=xattrs))
                return
            sink.write(make(name, mode=mode, size=info.st_size, xattrs=xattrs))
            _copy(fd, path, info.st_size, sink)
        finally:
            os.close(fd)
    else:
        kind = "socket" if stat.S_ISSOCK(info.st_mode) else "device node"
        raise ImageBroken(
            f"{path}: a {kind} cannot be part of an image; remove it (containers get their own /dev)"
        )


def _copy(fd: int, path: str, size: int, sink: Sink) -> None:
    left = size
    while left:
        data = os.read(fd, min(CHUNK, left))
        if not data:
            raise StoreError(f"{path}: became shorter while it was read")
        sink.write(data)
        left -= len(data)
    sink.write(bytes(-size % BLOCK))


def _block(name: bytes, mode: int, numbers: dict[str, int], kind: bytes, link: bytes) -> bytes:
    head = b"".join((
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % numbers["uid"], b"%07o\0" % numbers["gid"],
        b"%011o\0" % numbers["size"], b"%011o\0" % numbers["mtime"],
    ))  # fmt: skip
    tail = (kind + link.ljust(100, b"\0") + b"ustar\x0000").ljust(BLOCK - 156, b"\0")
    checksum = sum(head) + sum(tail) + 8 * 32
    return head + b"%06o\0 " % checksum + tail


def _record(key: bytes, value: bytes) -> bytes:
    body = b" %s=%s\n" % (key, value)
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body
