"""`gantry image build`: a root file system directory becomes an OCI layout's image or an ACI.

Reproducible: the same directory and options give the same digests (times are SOURCE_DATE_EPOCH, default 0, unless
kept; no names or dates of this machine). One layer; it is meant for demos, tests and small static programs, not as
a replacement for a Dockerfile builder.
"""

import bz2
import contextlib
import fcntl
import gzip
import hashlib
import lzma
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, Literal

import orjson
import zstandard

from executor.stage0 import manifest as m
from executor.stage0.errors import ImageBroken, StoreError
from executor.stage0.layout import Directory, blob_name
from executor.stage0.tarwrite import header, trailer, write_tree

Compression = Literal["gzip", "zstd", "none"]
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-+/:@]{0,255}")


@dataclass(frozen=True)
class Options:
    """What the image says, and how it is packed. epoch: seconds, every file's time; None keeps the files' own."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = field(default_factory=lambda: m.host_platform()[1])
    compression: Compression = "gzip"
    epoch: int | None = 0


@dataclass(frozen=True)
class Built:
    """What came out. id: what the image store will call it; digest: of the manifest (ACI: the id)."""

    id: str
    digest: str
    size: int
    entries: int


class _Tee:
    """Writes on, hashing and counting."""

    def __init__(self, sink: IO[bytes], name: str = "sha256") -> None:
        self._sink, self._name, self._hash, self.size = sink, name, hashlib.new(name), 0

    def write(self, data: bytes, /) -> int:
        self._hash.update(data)
        self.size += len(data)
        self._sink.write(data)
        return len(data)

    def flush(self) -> None:
        self._sink.flush()

    @property
    def digest(self) -> str:
        return f"{self._name}:{self._hash.hexdigest()}"


def build_oci(rootfs: Path, layout: Path, tag: str, options: Options) -> Built:
    """Add (or replace) the image `tag` in the OCI layout directory `layout`, which is made when it is not there.

    ImageBroken for a rootfs or option that cannot become an image, StoreError when the disk says no.
    """
    if not rootfs.is_dir():
        raise ImageBroken(f"{rootfs}: not a directory")
    if not _TAG.fullmatch(tag):
        raise ImageBroken(f"invalid tag {tag!r}")
    try:
        with layout_lock(layout):
            layer, diff_id, entries = _write_layer(rootfs, layout, options)
            config = _put(layout, _config(options, diff_id), m.OCI_CONFIG)
            document = {"schemaVersion": 2, "mediaType": m.OCI_MANIFEST, "config": config, "layers": [layer]}
            entry = _put(layout, document, m.OCI_MANIFEST)
            _set_tag(layout, tag, entry, options.architecture)
    except OSError as error:
        raise StoreError(f"{error.filename or layout}: {error.strerror}") from None
    return Built(str(config["digest"]), str(entry["digest"]), int(layer["size"]), entries)


def _write_layer(rootfs: Path, layout: Path, options: Options) -> tuple[dict[str, Any], str, int]:
    temporary = layout / f".{token_hex(8)}"
    try:
        with temporary.open("wb") as file:
            blob = _Tee(file)
            with _compressor(blob, options.compression) as packed:
                diff = _Tee(packed)
                entries = write_tree(rootfs, diff, mtime=lambda info: _mtime(info, options))
                diff.write(trailer())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(layout / blob_name(blob.digest))
    finally:
        temporary.unlink(missing_ok=True)
    suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[options.compression]
    media_type = f"application/vnd.oci.image.layer.v1.tar{suffix}"
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}, diff.digest, entries


@contextlib.contextmanager
def _compressor(sink: Any, compression: str) -> Iterator[IO[bytes]]:
    """Same input, same output: no file name, no time in the header."""
    if compression == "none":
        yield sink
        return
    maker: Any = {
        "gzip": lambda: gzip.GzipFile("", "wb", 6, sink, 0),
        "zstd": lambda: zstandard.ZstdCompressor(level=3).stream_writer(sink, closefd=False),
        "bzip2": lambda: bz2.BZ2File(sink, "wb"),
        "xz": lambda: lzma.LZMAFile(sink, "wb"),  # noqa: SIM115 - entered below
    }[compression]
    with maker() as packed:
        yield packed


def _config(options: Options, diff_id: str) -> dict[str, Any]:
    run: dict[str, Any] = {
        "User": options.user, "ExposedPorts": {port: {} for port in options.ports}, "Env": list(options.env),
        "Entrypoint": list(options.entrypoint), "Cmd": list(options.cmd),
        "Volumes": {volume: {} for volume in options.volumes}, "WorkingDir": options.working_dir,
        "Labels": dict(sorted(options.labels.items())), "StopSignal": options.stop_signal,
    }  # fmt: skip
    created = _rfc3339(options.epoch or 0)
    return {
        "created": created,
        "architecture": options.architecture,
        "os": "linux",
        "config": {key: value for key, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": "gantry image build"}],
    }


def _put(layout: Path, document: dict[str, Any], media_type: str) -> dict[str, Any]:
    data = orjson.dumps(document)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    _replace(layout / blob_name(digest), data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def add_image(layout: Path, tag: str, config: bytes, layers: list[dict[str, Any]]) -> str:
    """Make an image of a config as it is and of layers that are in the layout already; the manifest's digest.

    Under the layout's lock. ImageBroken for a tag that cannot be one.
    """
    if not _TAG.fullmatch(tag):
        raise ImageBroken(f"invalid tag {tag!r}")
    digest = "sha256:" + hashlib.sha256(config).hexdigest()
    _replace(layout / blob_name(digest), config)
    described = {"mediaType": m.OCI_CONFIG, "digest": digest, "size": len(config)}
    document = {"schemaVersion": 2, "mediaType": m.OCI_MANIFEST, "config": described, "layers": layers}
    entry = _put(layout, document, m.OCI_MANIFEST)
    said = m.parse_json(config, "config")
    _set_tag(layout, tag, entry, str(said.get("architecture") or m.host_platform()[1]))
    return str(entry["digest"])


def _set_tag(layout: Path, tag: str, entry: dict[str, Any], architecture: str) -> None:
    path = layout / "index.json"
    index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
    if path.exists():
        index = m.parse_json(Directory(layout).read("index.json", m.MAX_MANIFEST), str(path))
    ref_name = "org.opencontainers.image.ref.name"
    others = [e for e in index.get("manifests", []) if (e.get("annotations") or {}).get(ref_name) != tag]
    platform = {"os": "linux", "architecture": architecture}
    index["manifests"] = [*others, {**entry, "platform": platform, "annotations": {ref_name: tag}}]
    _replace(layout / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    _replace(path, orjson.dumps(index))


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all; a file that has this content already is not touched (readers watch its mtime)."""
    if path.exists() and path.read_bytes() == data:
        return
    temporary = path.parent / f".{token_hex(8)}"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def layout_lock(layout: Path) -> Iterator[None]:
    """Two builds into one layout take turns (flock on the directory itself: nothing to leave behind)."""
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    fd = os.open(layout, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def build_aci(
    rootfs: Path, target: Path, manifest: dict[str, Any], options: Options, compression: str
) -> Built:
    """An ACI file with this (already checked) image manifest. compression: gzip, bzip2, xz or none."""
    if not rootfs.is_dir():
        raise ImageBroken(f"{rootfs}: not a directory")
    temporary = target.with_name(f".{target.name}.{token_hex(4)}")
    data = orjson.dumps(manifest)
    epoch = options.epoch or 0
    try:
        with temporary.open("wb") as file:
            with _compressor(file, compression) as packed:
                tar = _Tee(packed, "sha512")
                tar.write(
                    header("manifest", mode=0o644, size=len(data), mtime=epoch)
                    + data
                    + bytes(-len(data) % 512)
                )
                info = rootfs.stat()
                tar.write(
                    header("rootfs/", mode=0o755, kind=b"5", uid=info.st_uid, gid=info.st_gid, mtime=epoch)
                )
                entries = write_tree(rootfs, tar, prefix="rootfs/", mtime=lambda i: _mtime(i, options))
                tar.write(trailer())
            file.flush()
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        temporary.rename(target)
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    image_id = tar.digest.replace(":", "-")
    return Built(image_id, image_id, size, entries)


def _mtime(info: os.stat_result, options: Options) -> int:
    return int(info.st_mtime) if options.epoch is None else options.epoch


def _rfc3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
