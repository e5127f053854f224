"""Removing images: at somebody's word, by age, and when the disk fills up; never what a pod or a pull needs.

As in the kubelet: above the high mark images go, the one unused for longest first, until the disk is down to the low
mark. What nobody refers to (layers of pulls that failed, what dead processes left) goes before any image does. Names
go first, then the image's record, then its content: whatever stops us, no record points at what is gone.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor.stage0 import cas as storage
from executor.stage0.cas import Cas
from executor.stage0.errors import ImageRefused
from executor.stage0.pins import pinned
from executor.stage0.settings import Collection
from executor.stage0.streams import Limits

log = logging.getLogger(__name__)

ORPHAN_AGE = 600.0  # seconds: what nobody refers to may be about to be referred to
ORPHAN_MAX_AGE = 24 * 3600.0


@dataclass
class Collected:
    """What was removed: ids of images, names of layers; freed: bytes of the disk; full: how full it is now, percent."""

    images: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    freed: int = 0
    full: float = 0.0
    kept: list[str] = field(default_factory=list)  # images that had to go, were they not in use


@dataclass(frozen=True)
class Disk:
    """A file system: its size, and what is free for root, in bytes."""

    size: int
    free: int

    @property
    def full(self) -> float:
        return 100.0 * (1 - self.free / self.size) if self.size else 0.0


def disk_of(path: Path) -> Disk:
    """The file system that a path is on."""
    info = os.statvfs(path)
    return Disk(info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize)


Needed = Callable[[], Iterable[str]]
"""Layers and images that are needed though nothing alive has pinned them. Asked with the store's lock held, after the
pins were read: whoever lets go of a pin may have written down before what it needed."""


def nothing() -> Iterable[str]:
    """No more than what is pinned."""
    return ()


def collect(
    state_dir: Path, settings: Collection, *,
    clock: Callable[[], float] = time.time, disk: Callable[[Path], Disk] = disk_of, needed: Needed = nothing,
) -> Collected:  # fmt: skip
    """One collection of the store in a state directory. StoreError. Two at a time become one after another."""
    done = Collected()
    store = Cas(state_dir.absolute() / "store", Limits())
    if not store.root.is_dir():
        return done
    with storage.storage_errors(f"the image store {store.root}"):
        store.open()
        store.sweep()
        with store.lock("gc"):
            _Collector(store, settings, clock, disk, done, needed).run()
    return done


class _Collector:
    def __init__(
        self,
        store: Cas,
        settings: Collection,
        clock: Callable[[], float],
        disk: Callable[[Path], Disk],
        done: Collected,
        needed: Needed,
    ) -> None:
        self._store, self._settings, self._done, self._needed = store, settings, done, needed
        self._now, self._disk = clock(), disk

    def run(self) -> None:
        before = self._disk(self._store.root)
        full = before.full >= self._settings.high_percent
        self._orphans(max(self._settings.minimum_age, ORPHAN_AGE) if full else ORPHAN_MAX_AGE)
        for image_id, used in sorted(last_used(self._store).items(), key=lambda item: item[1]):
            idle = self._now - used
            old = 0 < self._settings.maximum_age < idle
            crowded = full and self._disk(self._store.root).full > self._settings.low_percent
            if (old or crowded) and idle >= self._settings.minimum_age:
                self._remove(image_id)
        after = self._disk(self._store.root)
        self._done.freed, self._done.full = max(0, after.free - before.free), after.full
        if full and after.full > self._settings.low_percent:
            log.warning("%s is %.0f %% full and nothing more can be removed", self._store.root, after.full)

    def _remove(self, image_id: str) -> None:
        try:
            removed = remove_image(self._store, image_id, self._needed)
        except ImageRefused:
            self._done.kept.append(image_id)
            return
        log.info("removed image %s", image_id)
        self._done.images.append(image_id)
        self._done.layers += removed

    def _orphans(self, age: float) -> None:
        """Layers, documents and names that no image's record mentions."""
        with self._store.scratch() as bin, self._store.lock("store"):
            images = self._store.images()
            needed = pinned(self._store) | {layer for record in images for layer in trees(record)}
            needed |= set(self._needed())
            documents = {digest for record in images for digest in record.get("documents", [])}
            for path in (self._store.root / "layers").iterdir():
                diff_id = storage.digest_of_name(path.name)
                if diff_id not in needed and self._now - path.stat().st_mtime >= age:
                    path.rename(bin / path.name)
                    self._done.layers.append(diff_id)
            for path in (self._store.root / "blobs").iterdir():
                digest = storage.digest_of_name(path.name)
                if digest not in documents and self._now - path.stat().st_mtime >= age:
                    path.unlink()
            ids = {record["id"] for record in images}
            for name in self._store.names():
                path = self._store.name_path(name["name"])
                if name["id"] not in ids and self._now - path.stat().st_mtime >= age:
                    path.unlink()


def last_used(store: Cas) -> dict[str, float]:
    """When each image was last pulled or run, Unix time."""
    times = {}
    for record in store.images():
        stamps = []
        for path in (store.used_path(record["id"]), store.image_path(record["id"])):
            try:
                stamps.append(path.stat().st_mtime)
            except FileNotFoundError:
                continue
        times[record["id"]] = max(stamps, default=0.0)
    return times


def remove_image(store: Cas, image_id: str, needed_too: Needed = nothing) -> list[str]:
    """Remove an image with its names, and the layers and documents that only it has; gives those layers.

    ImageRefused while somebody needs it. What is big is deleted behind the lock.
    """
    with store.scratch() as bin:
        with store.lock("store"):
            images = store.images()
            record = next((r for r in images if r["id"] == image_id), None)
            if record is None:
                return []
            others = [other for other in images if other["id"] != image_id]
            kept = {layer for other in others for layer in trees(other)}
            layers = [layer for layer in dict.fromkeys(trees(record)) if layer not in kept]
            needed = pinned(store)
            needed |= set(needed_too())
            if image_id in needed or not needed.isdisjoint(layers):
                raise ImageRefused(f"{image_id}: is in use by a pod or a pull")
            for name in store.names():
                if name["id"] == image_id:
                    store.name_path(name["name"]).unlink(missing_ok=True)
            store.image_path(image_id).unlink()
            store.used_path(image_id).unlink(missing_ok=True)
            moved = [layer for layer in layers if store.has_layer(layer)]
            for layer in moved:
                store.layer_dir(layer).rename(bin / store.layer_dir(layer).name)
                store.layer_lock_path(layer).unlink(missing_ok=True)
            documents = {digest for other in others for digest in other.get("documents", [])}
            for digest in set(record.get("documents", [])) - documents:
                store.blob_path(digest).unlink(missing_ok=True)
        return moved


def trees(record: Mapping[str, Any]) -> list[str]:
    """The layers of an image: those that are mounted, and those that such a one was rendered from."""
    return [*record["layers"], *record.get("sources", [])]
