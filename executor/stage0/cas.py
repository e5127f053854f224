"""The store on disk: blobs, rendered layers, image records, names. State is directories, locks and renames.

    store/version                          layout number
    store/blobs/sha256-HEX                 manifests and configs, as they came
    store/layers/sha256-HEX/{tree,…}       one rendered tree a layer, by diff_id, with overlay whiteouts; beside it
                                           layer.json, split (the tar without content), seal (was it touched?)
    store/images/sha256-HEX.json           image record: config, layers, how it was verified
    store/names/HASH.json                  reference → image
    store/pins/, store/used/               what is needed now (pins.py); when an image was last used (gc.py)
    store/locks/, store/tmp/               flocks; work that is not finished, each directory flocked by its worker
    store/partial/                         what has come of downloads that were not finished (partial.py)

A thing under its final name is whole: it was built in tmp, synced, and renamed. What a dead worker left in tmp has no
lock holder and is swept by the next import. Layer imports of all processes meet in one flock per layer.
"""

import fcntl
import hashlib
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import orjson

from executor.stage0 import partial, seal
from executor.stage0.errors import ImageBroken, ImageError, StoreError
from executor.stage0.extract import Summary, extract
from executor.stage0.manifest import Layer
from executor.stage0.pipe import Pipe
from executor.stage0.removal import remove_tree
from executor.stage0.split import Tap
from executor.stage0.streams import Ahead, Hashing, Limits, algorithm, decompress
from executor.stage0.tarstream import TarReader

log = logging.getLogger(__name__)

VERSION = 1
FLUSH_SECONDS = 0.25
_PARTS = ("blobs", "layers", "images", "names", "pins", "used", "locks", "tmp", partial.DIRECTORY)


@dataclass(frozen=True)
class LayerUsage:
    """What a layer takes: unpacked bytes and entries."""

    bytes: int
    entries: int


class Cas:
    """The directories. All methods block; every error is an ImageError."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root, self.limits = root, limits
        self.watch: Callable[[Layer, Hashing], None] | None = (
            None  # told of each layer that begins to come in
        )
        self._ready = False

    def open(self) -> None:
        """Create or check the layout and sweep what dead workers left. Once; cheap afterwards."""
        if self._ready:
            return
        with storage_errors(f"the image store {self.root}"):
            # Root's alone: the trees hold set-uid programs of strangers.
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for part in _PARTS:
                (self.root / part).mkdir(exist_ok=True, mode=0o700)
            self._check_version()
            self.sweep()
        self._ready = True

    def _check_version(self) -> None:
        path = self.root / "version"
        try:
            text = path.read_text()
        except FileNotFoundError:
            self.write(path, b"%d\n" % VERSION)
            return
        if text.strip() != str(VERSION):
            raise StoreError(
                f"the image store {self.root} has layout {text.strip()[:20]!r}, this version knows {VERSION}"
            )

    def sweep(self) -> None:
        """Remove what dead workers left, and nobody will go on with."""
        partial.sweep(self.root)
        for path in (self.root / "tmp").iterdir():
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                path.unlink(missing_ok=True)  # a temporary file of a file system without O_TMPFILE
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(path)
            except (BlockingIOError, FileNotFoundError):
                continue  # somebody works there, or swept it before us
            finally:
                os.close(fd)

    @contextmanager
    def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """A flock, waited for; released by the kernel when the process dies."""
        path = self.root / "locks" / name
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if _is_at(fd, path):
                break
            os.close(fd)  # it was removed while we waited: others lock a new one
        try:
            yield
        finally:
            os.close(fd)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private directory in tmp, locked while we live, removed at the end unless it was renamed away."""
        while True:
            path = self.root / "tmp" / token_hex(8)
            path.mkdir(mode=0o700)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # a sweeper was faster than our lock
            fcntl.flock(fd, fcntl.LOCK_EX)
            if path.exists():
                break
            os.close(fd)  # and here too
        try:
            yield path
        finally:
            if path.exists():
                remove_tree(path)
            os.close(fd)

    # -- layers

    def layer_dir(self, diff_id: str) -> Path:
        return self.root / "layers" / diff_id.replace(":", "-")

    def tree(self, diff_id: str) -> Path:
        """Where a layer's rendered tree is (or will be)."""
        return self.layer_dir(diff_id) / "tree"

    def has_layer(self, diff_id: str) -> bool:
        return self.layer_dir(diff_id).exists()

    def import_layer(self, layer: Layer) -> bool:
        """Render a layer unless it is there; whether it was rendered now. ImageBroken, StoreError."""
        with storage_errors("the image store"), self._layer_lock(layer.diff_id):
            if self.has_layer(layer.diff_id):
                return False
            with self._fresh_tree() as (tmp, root):
                self._seal(tmp, layer.diff_id, self._render(layer, root, tmp / "split"))
            return True

    def import_tree(self, fill: Callable[[int, Path], tuple[str, Summary]]) -> str:
        """As import_layer where the digest is known only afterwards: fill(fd of an empty directory, split) tells it."""
        with storage_errors("the image store"), self._fresh_tree() as (tmp, root):
            diff_id, summary = fill(root, tmp / "split")
            with self._layer_lock(diff_id):
                if not self.has_layer(diff_id):
                    self._seal(tmp, diff_id, summary)
            return diff_id

    def _layer_lock(self, diff_id: str) -> AbstractContextManager[None]:
        return self.lock(self.layer_lock_path(diff_id).name)

    def layer_lock_path(self, diff_id: str) -> Path:
        return self.root / "locks" / f"layer-{diff_id.replace(':', '-')}"

    @contextmanager
    def _fresh_tree(self) -> Iterator[tuple[Path, int]]:
        if os.geteuid() != 0:
            raise StoreError("rendering layers needs root (owners, overlay whiteouts): run as root")
        with self.scratch() as tmp:
            (tmp / "tree").mkdir(mode=0o755)
            root = os.open(tmp / "tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with flushing(tmp):
                    yield tmp, root
            finally:
                os.close(root)

    def _seal(self, tmp: Path, diff_id: str, summary: Summary) -> None:
        """From here on the tree is believed."""
        if summary.skipped_xattrs:
            log.info("layer %s: attributes left out: %s", diff_id, ", ".join(sorted(summary.skipped_xattrs)))
        record = {"version": 1, "diffId": diff_id, "bytes": summary.bytes, "entries": summary.entries}
        (tmp / "layer.json").write_bytes(orjson.dumps(record))
        seal.write(tmp / "tree", tmp / "seal")
        sync(tmp)
        tmp.rename(self.layer_dir(diff_id))
        fsync_directory(self.root / "layers")

    def _render(self, layer: Layer, root: int, split: Path) -> Summary:
        source = layer.open()
        try:
            blob = Hashing(source, algorithm(layer.digest), size=layer.size) if layer.digest else None
            if self.watch is not None and blob is not None:
                self.watch(layer, blob)
            plain = decompress(blob or source, self.limits, {"gzip", "zstd"})
            diff = Hashing(plain, algorithm(layer.diff_id))
            ahead = Ahead(diff, source.wake if isinstance(source, Pipe) else None)
            tap = Tap(ahead, split, root)
            try:
                summary = extract(TarReader(tap, self.limits, strict_end=False), root, self.limits, tap.entry)
                tap.drain()
            finally:
                tap.close()
                ahead.close()
            if blob is not None:
                blob.drain()
                blob.verify(layer.digest)
            try:
                diff.verify(layer.diff_id)
            except ImageBroken as error:
                raise ImageBroken(f"unpacked: {error}") from None
            return summary
        finally:
            source.close()

    def usage(self, diff_id: str) -> LayerUsage:
        record = self._load(self.layer_dir(diff_id) / "layer.json") or {}
        return LayerUsage(int(record.get("bytes", 0)), int(record.get("entries", 0)))

    # -- records

    def image_path(self, image_id: str) -> Path:
        return self.root / "images" / f"{image_id.replace(':', '-')}.json"

    def used_path(self, image_id: str) -> Path:
        return self.root / "used" / image_id.replace(":", "-")

    def touch(self, image_id: str) -> None:
        """The image is used now."""
        self.used_path(image_id).touch(mode=0o600)

    def name_path(self, name: str) -> Path:
        return self.root / "names" / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.json"

    def load_image(self, image_id: str) -> dict[str, Any] | None:
        """An image's record, if it is there and all its layers are."""
        record = self._load(self.image_path(image_id))
        if record is None or record.get("version") != 1 or record.get("id") != image_id:
            return None
        return record if all(self.has_layer(layer) for layer in record["layers"]) else None

    def load_name(self, name: str) -> dict[str, Any] | None:
        record = self._load(self.name_path(name))
        return record if record is not None and record.get("name") == name else None

    def images(self) -> list[dict[str, Any]]:
        """All image records, by id."""
        return self._all("images")

    def names(self) -> list[dict[str, Any]]:
        return self._all("names")

    def save(self, path: Path, record: dict[str, Any]) -> None:
        self.write(path, orjson.dumps(record, option=orjson.OPT_INDENT_2))

    def blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / digest.replace(":", "-")

    def put_blob(self, digest: str, data: bytes) -> None:
        path = self.blob_path(digest)
        if not path.exists():
            self.write(path, data)

    def write(self, path: Path, data: bytes) -> None:
        """A file whole or not at all."""
        with self.scratch() as tmp:
            with (tmp / "file").open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            (tmp / "file").rename(path)
        fsync_directory(path.parent)

    def _load(self, path: Path) -> dict[str, Any] | None:
        try:
            record = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except orjson.JSONDecodeError:
            # Written whole or not at all, so somebody damaged it. As if it were not there: the next pull repairs it.
            log.warning("%s is damaged, ignored", path)
            return None
        return record if isinstance(record, dict) else None

    def _all(self, part: str) -> list[dict[str, Any]]:
        try:
            names = sorted(os.listdir(self.root / part))  # glob would find nothing where it may not look
        except FileNotFoundError:
            return []
        records = (self._load(self.root / part / name) for name in names if name.endswith(".json"))
        return [record for record in records if record is not None]


def digest_of_name(name: str) -> str:
    """`sha256-HEX`, as files are called, back to `sha256:HEX`."""
    return name.replace("-", ":", 1)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def now() -> str:
    """RFC 3339, UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """OSErrors of the store's own files as StoreError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ImageError):
            raise
        name = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"{what}: {error.strerror or error}{name}") from error


@contextmanager
def flushing(path: Path) -> Iterator[None]:
    """Let the disk write while a tree is being made, so that little of it is left for the end."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(FLUSH_SECONDS):
            sync(path)

    thread = threading.Thread(target=run, name="flush", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sync(path: Path) -> None:
    """Everything of this file system to the disk: one syncfs costs less than an fsync for each file of a layer."""
    try:
        subprocess.run(["sync", "--file-system", "--", str(path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        os.sync()  # no coreutils (busybox): the whole machine then


def fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
