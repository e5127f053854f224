"""`gantry image verify`: whether what the store has of an image is still what was promised, byte by byte.

A layer's tar is put together again from its tree and its split and hashed: that it has the digest which the image's
config names (for an ACI: its id) says that every file's content is the image's. Owners, modes, times, links and
attributes are compared with the headers of that same tar. Documents are hashed, and what the record says about running
the image is compared with what they say.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from executor.stage0 import acmanifest, seal
from executor.stage0 import config as image_config
from executor.stage0 import manifest as m
from executor.stage0.cas import Cas
from executor.stage0.errors import ImageBroken, ImageError
from executor.stage0.extract import OPAQUE, SKIPPED_XATTRS, WHITEOUT, clean_name
from executor.stage0.split import Joined
from executor.stage0.streams import Hashing, algorithm
from executor.stage0.tarstream import Entry, Kind, TarReader

MAX_PROBLEMS = 20
_MODES = {
    Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK, Kind.FIFO: stat.S_IFIFO,
    Kind.DEVICE: stat.S_IFCHR,
}  # fmt: skip


def image(cas: Cas, record: Mapping[str, Any], *, content: bool = True) -> list[str]:
    """What is wrong with an image, [] when nothing is. content: read it all, not only names, owners, times."""
    problems = documents(cas, record)
    layers = [*record["layers"], *record.get("sources", ())]
    for layer in dict.fromkeys(layers):
        found = layer_problems(cas, layer, content=content)
        problems += [f"layer {layer[:27]}: {problem}" for problem in found[: MAX_PROBLEMS - len(problems)]]
    return problems


def documents(cas: Cas, record: Mapping[str, Any]) -> list[str]:
    """Manifest and config against their digests, and the record against them."""
    found: dict[str, bytes] = {}
    for digest in record.get("documents", ()):
        try:
            data = cas.blob_path(digest).read_bytes()
        except OSError as error:
            return [f"document {digest[:19]}: {error.strerror}"]
        if m.digest_of(data) != digest and f"sha512:{_sha512(data)}" != digest:
            return [f"document {digest[:19]}: was changed"]
        found[digest] = data
    try:
        run, layers = _said(record, found)
    except ImageError as error:
        return [str(error)]
    problems = []
    if run.to_json() != record["config"]:
        problems.append("its record says something else about running it than its manifest does")
    if layers is not None and list(layers) != record["layers"]:
        problems.append("its record names other layers than its config does")
    return problems


def _said(
    record: Mapping[str, Any], found: Mapping[str, bytes]
) -> tuple[image_config.ImageConfig, tuple[str, ...] | None]:
    """What the documents say: how to run it, and its layers (ACIs do not say the latter)."""
    kind = record["config"]["format"]
    if kind == "aci":
        manifests = [data for data in found.values() if b"acKind" in data or b"ackind" in data.lower()]
        if len(manifests) != 1:
            raise ImageBroken("its manifest is not in the store")
        return acmanifest.image_config(acmanifest.parse_manifest(manifests[0])), None
    if record["id"] not in found:
        raise ImageBroken("its config is not in the store")
    obj = m.parse_json(found[record["id"]], "config")
    return image_config.from_oci(obj, kind=kind), image_config.diff_ids(obj)


def layer_problems(cas: Cas, layer: str, *, content: bool) -> list[str]:
    """What is wrong with one layer's tree. When all is well after all, it is sealed anew (a restored store)."""
    directory = cas.layer_dir(layer)
    tree = directory / "tree"
    try:
        sealed = seal.changes(tree, directory / "seal", MAX_PROBLEMS)
    except OSError as error:
        sealed = [f"its seal: {error.strerror}"]
    if not content or layer.startswith("rendered:"):
        return sealed
    try:
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return [f"{error.strerror}"]
    try:
        problems, all_read = _against_tar(cas, layer, root)
    finally:
        os.close(root)
    if sealed and not all_read:
        return [*problems, *sealed]
    if sealed and not problems:
        seal.write(tree, directory / "seal")
    return problems


def _against_tar(cas: Cas, layer: str, root: int) -> tuple[list[str], bool]:
    """(what is wrong, whether the content of every file was read for that)."""
    directory = cas.layer_dir(layer)
    try:
        joined = Joined(directory / "split", root)
        tar = Hashing(joined, algorithm(layer))
        # An ACI's layer is known by its sha512, an OCI layer by what its config says, which is sha256 in practice.
        expected = Expected(aci=_is_aci(cas, layer))
        reader = TarReader(tar, cas.limits, strict_end=False)
        while (entry := reader.next()) is not None:
            expected.add(entry, cas)
        tar.drain()
    except ImageBroken as error:
        return [str(error)], False
    if tar.digest() != layer:
        return [f"the content of its files was changed: they make {tar.digest()[:27]}…"], False
    expected.finish()
    return list(_differences(expected, root)), not expected.outlived


def _is_aci(cas: Cas, layer: str) -> bool:
    identifier = layer.replace(":", "-")
    return cas.image_path(identifier).exists() or any(
        layer in (*record["layers"], *record.get("sources", ())) and record["config"].get("format") == "aci"
        for record in cas.images()
    )


@dataclass
class _Thing:
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)


def _implied(mode: int = 0o755) -> _Thing:
    return _Thing(Kind.DIRECTORY, mode, 0, 0, 0, 0)


class Expected:
    """What extract.py makes of a tar, as a table instead of files. outlived: not all content was read from the tree."""

    def __init__(self, *, aci: bool) -> None:
        self._aci = aci
        self.things: dict[str, _Thing] = {"": _implied()}
        self.outlived = False
        self._linked: set[int] = set()
        self._hidden: set[str] = set()
        self._opaque: set[str] = set()

    def add(self, entry: Entry, cas: Cas) -> None:
        name = clean_name(entry.name, cas.limits)
        if self._aci:
            if name != "rootfs" and not name.startswith("rootfs/"):
                return
            name = name[7:]
        parent, _, base = name.rpartition("/")
        if not self._aci and base.startswith(WHITEOUT):
            self._parents(name)
            self._whiteout(parent, base)
            return
        self._parents(name)
        # A file that was replaced and lives on under another name: its content is in the split, not read from the tree.
        self.outlived |= id(self.things.get(name)) in self._linked
        if entry.kind is Kind.HARDLINK:
            target = clean_name(entry.link, cas.limits)
            target = target[7:] if self._aci else target
            if target not in self.things:
                raise ImageBroken(f"{name[:200]!r}: a hard link to what is not there")
            self.things[name] = self.things[target]
            self._linked.add(id(self.things[target]))
            return
        kept = {k: v for k, v in entry.xattrs.items() if not k.startswith(SKIPPED_XATTRS)}
        has_xattrs = entry.kind in {Kind.FILE, Kind.DIRECTORY}
        self.things[name] = _Thing(
            entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime_ns, entry.link,
            kept if has_xattrs else {},
        )  # fmt: skip

    def finish(self) -> None:
        for name in sorted(self._hidden):
            there = self.things.get(name)
            if there is None:
                self.things[name] = _Thing(Kind.DEVICE, -1, 0, 0, 0, -1)
            elif there.kind is Kind.DIRECTORY:
                self._opaque.add(name)
        for name in self._opaque:
            self.things[name].xattrs["trusted.overlay.opaque"] = b"y"

    def _parents(self, name: str) -> None:
        at = name.find("/")
        while at >= 0:
            self.things.setdefault(name[:at], _implied())
            at = name.find("/", at + 1)

    def _whiteout(self, parent: str, base: str) -> None:
        if base == OPAQUE:
            self._opaque.add(parent)
            return
        target = base.removeprefix(WHITEOUT)
        if not target.startswith(WHITEOUT):
            self._hidden.add(f"{parent}/{target}" if parent else target)


def _differences(expected: Expected, root: int) -> Iterator[str]:
    left = dict(expected.things)
    for name, info in _walk(root):
        thing = left.pop(name, None)
        if thing is None:
            yield f"/{name} is not of the image"
        elif problem := _compare(name, thing, info, root):
            yield f"/{name}: {problem}"
    for name in left:
        yield f"/{name} is gone"


def _walk(root: int) -> Iterator[tuple[str, os.stat_result]]:
    yield "", os.fstat(root)
    todo = [""]
    while todo:
        directory = todo.pop()
        fd = os.open(
            directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root
        )
        try:
            with os.scandir(fd) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        finally:
            os.close(fd)
        for base, info in found:
            name = f"{directory}/{base}" if directory else base
            yield name, info
            if stat.S_ISDIR(info.st_mode):
                todo.append(name)


def _compare(name: str, thing: _Thing, info: os.stat_result, root: int) -> str:
    if stat.S_IFMT(info.st_mode) != _MODES[thing.kind]:
        return f"is not a {thing.kind} any more"
    if thing.mode == -1:
        return "" if info.st_rdev == 0 else "is a device"
    if (info.st_uid, info.st_gid) != (thing.uid, thing.gid):
        return f"belongs to {info.st_uid}:{info.st_gid}, the image says {thing.uid}:{thing.gid}"
    if thing.kind is Kind.SYMLINK:
        link = os.readlink(name, dir_fd=root)
        return "" if link == thing.link else f"leads to {link[:200]!r}, the image says {thing.link[:200]!r}"
    if stat.S_IMODE(info.st_mode) != thing.mode:
        return f"has mode {stat.S_IMODE(info.st_mode):o}, the image says {thing.mode:o}"
    if info.st_mtime_ns != thing.mtime_ns:
        return "has another time"
    return "" if thing.kind is Kind.FIFO else _compare_xattrs(name, thing, root)


def _compare_xattrs(name: str, thing: _Thing, root: int) -> str:
    fd = os.open(name or ".", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    try:
        there = {key: os.getxattr(fd, key) for key in os.listxattr(fd) if not key.startswith(SKIPPED_XATTRS)}
    finally:
        os.close(fd)
    if there != thing.xattrs:
        names = sorted(key for key in {*there, *thing.xattrs} if there.get(key) != thing.xattrs.get(key))
        return f"has other attributes: {', '.join(names)[:200]}"
    return ""


def _sha512(data: bytes) -> str:
    return hashlib.sha512(data).hexdigest()
