"""The image store: from a reference to rendered trees and the image's configuration.

    pull ─▶ warm? (record in memory, one or two stats) ─▶ Image
         └▶ coalesce (one pull a reference) ─▶ policy ─▶ source.find ─▶ layers, in parallel ─▶ record ─▶ Image

Only this module decides by policy; sources find, cas keeps. What a pull verified is written into the image's record.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from executor.stage0 import cas, names, sources
from executor.stage0 import manifest as m
from executor.stage0.archive import ArchiveSource
from executor.stage0.cas import Cas
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageError, ImageNeverPull, ImageNotFound, StoreError
from executor.stage0.registry import Credentials, RegistrySource, anonymous
from executor.stage0.sources import Source
from executor.stage0.streams import Limits

log = logging.getLogger(__name__)

Policy = Literal["Always", "IfNotPresent", "Never"]
Progress = Callable[[str], None]
PARALLEL_LAYERS = 3


@dataclass(frozen=True)
class Verification:
    """What is known about how an image was checked when it came in.

    how: "digest" when the reference named the digest, "none" when a tag was believed. Every manifest, config and
    layer was checked against the digests in its parent in either case.
    """

    digest: str
    how: Literal["digest", "none"]
    time: str


@dataclass(frozen=True)
class Image:
    """An image ready to run. layers: rendered trees, uppermost first; id: digest of the config (ACI: of the tar)."""

    id: str
    digest: str
    names: tuple[str, ...]
    config: ImageConfig
    layers: tuple[Path, ...]
    verification: Verification


class ImageStore:
    """All images of a node, below `state_dir`/store. Usable from several processes at a time.

    local_images: directory of OCI layouts for `localhost/NAME:TAG`; credentials: registry logins by host. Nothing is
    touched before the first call.
    """

    def __init__(
        self, state_dir: Path, *, local_images: Path | None = None, limits: Limits | None = None,
        credentials: Credentials = anonymous,
    ) -> None:  # fmt: skip
        self._cas = Cas(state_dir.absolute() / "store", limits or Limits())
        self._local_images, self._credentials = local_images, credentials
        self._warm: dict[str, tuple[list[int], sources.Fingerprint | None, Image]] = {}
        self._running: dict[tuple[str, str], asyncio.Task[Image]] = {}

    async def pull(self, ref: str, policy: Policy, *, progress: Progress | None = None) -> Image:
        """The image, from the store or from where it comes from.

        Always asks the source what the reference points to now; IfNotPresent asks only when the store has no image of
        that name, and for local layouts and archives also when their file changed; Never takes what is on this
        node: the store, and for `localhost/…` the directory of local images.
        Concurrent pulls of one reference are one pull. Raises an ImageError; `.reason` is the waiting reason.
        """
        reference = names.parse(ref)
        warm = self._from_memory(ref, reference, policy)
        if warm is not None:
            return warm
        key = (ref, policy)
        task = self._running.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = asyncio.create_task(self._pull(ref, reference, policy, progress or _ignore))
            self._running[key] = task
            task.add_done_callback(partial(self._pulled, key))
        # A caller that gives up does not take the pull away from the others.
        return await asyncio.shield(task)

    def _pulled(self, key: tuple[str, str], task: asyncio.Task[Image]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    def _from_memory(self, ref: str, reference: names.Reference, policy: Policy) -> Image | None:
        known = self._warm.get(ref)
        if known is None or policy == "Always":
            return None
        record, fingerprint, image = known
        if sources.stat_fingerprint(self._cas.image_path(image.id)) != record:
            return None  # removed, or pulled anew by another process
        if policy == "IfNotPresent" and not isinstance(reference, names.Registry | names.Stored):
            there = self._source(ref, reference).fingerprint()
            if there is not None and there != fingerprint:
                return None
        return image

    async def _pull(self, ref: str, reference: names.Reference, policy: Policy, progress: Progress) -> Image:
        try:
            await asyncio.to_thread(self._cas.open)
            with cas.storage_errors("the image store"):
                return await self._resolve(ref, reference, policy, progress)
        except ImageError as error:
            raise error.about(ref) from error.__cause__

    async def _resolve(
        self, ref: str, reference: names.Reference, policy: Policy, progress: Progress
    ) -> Image:
        if isinstance(reference, names.Stored):
            return self._stored(ref, reference)
        stored = self._cas.load_name(str(reference))
        image = None if stored is None else self._image(stored)
        if policy == "Never" and not isinstance(reference, names.Local):
            if image is None:
                raise ImageNeverPull("is not present on this node, and the pull policy is Never")
            return self._remember(ref, stored, image)
        source = self._source(ref, reference)
        seen = (
            source.fingerprint()
        )  # before the source is read: what changes meanwhile is noticed the next time
        try:
            if image is not None and stored is not None and await self._current(source, seen, stored, policy):
                return self._remember(ref, self._refreshed(stored, seen), image)
            return await self._fetch(ref, reference, source, progress)
        except ImageNotFound as error:
            if policy == "Never":
                raise ImageNeverPull(str(error)) from None
            raise
        finally:
            await source.close()

    async def _current(
        self, source: Source, seen: sources.Fingerprint | None, stored: dict[str, Any], policy: Policy
    ) -> bool:
        """Whether the store's image is what the policy wants, without a new import."""
        if policy == "IfNotPresent" and (seen is None or seen == stored["fingerprint"]):
            return True
        return await source.current(stored)

    def _refreshed(self, stored: dict[str, Any], fingerprint: sources.Fingerprint | None) -> dict[str, Any]:
        """The name's record with the source as it looks now, so that the next pull need not read it."""
        if fingerprint is None or fingerprint == stored["fingerprint"]:
            return stored
        stored = {**stored, "fingerprint": fingerprint}
        self._cas.save(self._cas.name_path(stored["name"]), stored)
        return stored

    async def _fetch(self, ref: str, reference: names.Reference, source: Source, progress: Progress) -> Image:
        lock = self._cas.lock("store", shared=True)
        await asyncio.to_thread(lock.__enter__)
        try:
            fingerprint = source.fingerprint()
            progress(f"{ref}: resolving")
            found = await source.find()
            if found.note:
                progress(f"{ref}: {found.note}")
                log.warning("%s: %s", ref, found.note)
            await self._import_layers(ref, found, progress)
            pinned = bool(getattr(reference, "digest", ""))
            # Several fsyncs: not on the loop.
            return await asyncio.to_thread(
                self._record, ref, str(reference), found, fingerprint, pinned=pinned
            )
        finally:
            lock.__exit__(None, None, None)

    async def _import_layers(self, ref: str, found: m.Found, progress: Progress) -> None:
        """All layers, a few at a time; the first failure ends the pull (what is whole stays for the next try)."""
        slots = asyncio.Semaphore(PARALLEL_LAYERS)
        missing = {layer.diff_id: (n, layer) for n, layer in reversed(list(enumerate(found.layers, 1)))
                   if not self._cas.has_layer(layer.diff_id)}  # fmt: skip
        total = len(found.layers)

        async def one(number: int, layer: m.Layer) -> None:
            async with slots:
                size = "" if layer.size is None else f" ({human(layer.size)})"
                progress(
                    f"{ref}: layer {number}/{total} {short(layer.digest or layer.diff_id)}{size}: importing"
                )
                try:
                    new = await asyncio.to_thread(self._cas.import_layer, layer)
                except ImageError as error:
                    raise error.about(
                        f"layer {number} of {total} ({layer.digest or layer.diff_id})"
                    ) from error.__cause__
                progress(f"{ref}: layer {number}/{total} {short(layer.digest or layer.diff_id)}: "
                         + ("done" if new else "already there"))  # fmt: skip

        await gather_all([one(number, layer) for number, layer in missing.values()])

    def _record(
        self, ref: str, name: str, found: m.Found, fingerprint: sources.Fingerprint | None, *, pinned: bool,
    ) -> Image:  # fmt: skip
        """Make the image known: documents, image record, name; in this order, so that a name never points nowhere."""
        for digest, data in found.blobs:
            self._cas.put_blob(digest, data)
        verification = {"digest": found.digest, "how": "digest" if pinned else "none", "time": cas.now()}
        record = {
            "version": 1,
            "id": found.id,
            "digest": found.digest,
            "layers": [layer.diff_id for layer in found.layers],
            "config": found.config.to_json(),
            "documents": [digest for digest, _ in found.blobs],
            "verification": verification,
        }
        known = self._cas.load_image(found.id)
        if known is not None and known["digest"] == found.digest and known["verification"]["how"] == "digest":
            record["verification"] = known["verification"]  # a later pull by tag takes nothing away from it
        self._cas.save(self._cas.image_path(found.id), record)
        stored = {
            "name": name,
            "id": found.id,
            "digest": found.digest,
            "fingerprint": fingerprint,
            **_times(),
        }
        self._cas.save(self._cas.name_path(name), stored)
        image = self._image(stored)
        if image is None:
            raise StoreError("removed by somebody while it was pulled")
        return self._remember(ref, stored, image)

    def _remember(self, ref: str, stored: dict[str, Any] | None, image: Image) -> Image:
        record = sources.stat_fingerprint(self._cas.image_path(image.id))
        if record is not None:
            self._warm[ref] = (record, None if stored is None else stored["fingerprint"], image)
        return image

    def _image(self, stored: dict[str, Any]) -> Image | None:
        """The image behind a name record; None when it or a layer is gone."""
        record = self._cas.load_image(stored["id"])
        if record is None:
            return None
        try:
            return Image(
                id=record["id"],
                digest=stored["digest"],
                names=(stored["name"],) if stored["name"] else (),
                config=ImageConfig.from_json(record["config"]),
                layers=tuple(self._cas.tree(diff_id) for diff_id in reversed(record["layers"])),
                verification=Verification(**record["verification"]),
            )
        except (KeyError, TypeError) as error:
            log.warning("the record of image %s is damaged (%r), ignored", record["id"], error)
            return None

    def _stored(self, ref: str, reference: names.Stored) -> Image:
        ids = [r["id"] for r in self._cas.images() if r["id"].startswith(reference.id)]
        if len(ids) > 1:
            raise ImageNotFound(f"is ambiguous: {', '.join(short(i) for i in ids[:5])}")
        record = self._cas.load_image(ids[0]) if ids else None
        image = self._image({"id": ids[0], "digest": record["digest"], "name": ""}) if record else None
        if image is None:
            raise ImageNotFound("no image with this id in the store")
        return self._remember(ref, None, image)

    def _source(self, ref: str, reference: names.Reference) -> Source:
        match reference:
            case names.Local():
                return sources.local(reference, self._local_images)
            case names.Layout():
                return sources.LayoutSource(Path(reference.path), reference.tag)
            case names.Archive():
                return ArchiveSource(reference, self._cas)
            case names.Registry():
                return RegistrySource(reference, self._credentials)
        raise AssertionError(f"{ref}: stored images have no source")


async def gather_all(work: list[Awaitable[None]]) -> None:
    """Run all; on the first failure wait for the others (threads cannot be cancelled), then raise it."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def short(digest: str) -> str:
    """`sha256:0123456789ab`, for people."""
    return digest[:19]


def human(count: int) -> str:
    """1536 → `1.5 KiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _times() -> dict[str, str]:
    return {"time": cas.now()}


def _ignore(_: str) -> None:
    """No progress wanted."""
