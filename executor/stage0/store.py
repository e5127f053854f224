"""The image store: from a reference to rendered trees and the image's configuration.

    pull ─▶ warm? (record in memory, one or two stats) ─▶ Image
         └▶ coalesce (one pull a reference) ─▶ policy ─▶ source.find ─▶ layers, in parallel ─▶ record ─▶ Image

Only this module decides by policy; sources find, cas keeps. What a pull verified is written into the image's record.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from executor.stage0 import access, cas, gc, names, sources
from executor.stage0 import manifest as m
from executor.stage0.acisource import Importer
from executor.stage0.archive import ArchiveSource
from executor.stage0.cas import Cas
from executor.stage0.config import ImageConfig
from executor.stage0.dependencies import Resolver
from executor.stage0.errors import (
    ImageError,
    ImageNeverPull,
    ImageNotFound,
    ImageRefused,
    ImageUntrusted,
    StoreError,
)
from executor.stage0.guard import Guard
from executor.stage0.layers import LayerImports, Progress, short
from executor.stage0.login import Credentials, Login, read_docker_config
from executor.stage0.pins import Pin, Pins, Share
from executor.stage0.settings import Settings
from executor.stage0.sources import Source
from executor.stage0.streams import Hashing, Limits
from executor.stage0.trust import Fact, Gate
from executor.stage0.trust.subject import subject

if TYPE_CHECKING:
    from executor.stage0.trust.cosign import Signature

log = logging.getLogger(__name__)

Policy = Literal["Always", "IfNotPresent", "Never"]
_Who = frozenset[tuple[str, tuple[str, str]]]
_SECRET = "was pulled with a login that this pod does not have"


@dataclass(frozen=True)
class Verification:
    """What is known about how an image was checked when it came in.

    how: "signature" when policy asked for one and it was good, "digest" when the reference named the digest, "none"
    when a tag was believed. Every manifest, config and layer was checked against the digests in its parent in any case.
    facts: what was found under each name that the image came in by; compared with policy and keys at each run.
    dependencies: the same for what lies below an ACI.
    """

    digest: str
    how: Literal["signature", "digest", "none"]
    time: str
    facts: tuple[Fact, ...] = ()
    dependencies: tuple[Fact, ...] = ()

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Verification":
        """Of an image record. Raises KeyError or TypeError when it is something else."""
        facts, below = (tuple(map(Fact.from_json, obj.get(key, ()))) for key in ("facts", "dependencies"))
        return cls(obj["digest"], obj["how"], obj["time"], facts, below)


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

    local_images: directory of OCI layouts for `localhost/NAME:TAG`; settings: hosts, mirrors, the node's logins;
    trust: policy and trusted keys, may be replaced at any time; signatures: of ACIs, by reference, instead of those
    beside them. Nothing is touched before the first call.
    """

    def __init__(
        self, state_dir: Path, *, local_images: Path | None = None, limits: Limits | None = None,
        settings: Settings | None = None, trust: Gate | None = None, signatures: Mapping[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        self._signatures = signatures or {}
        self.trust = trust or (settings or Settings()).gate
        self._state_dir, self._full = state_dir, asyncio.Event()
        self._cas = Cas(state_dir.absolute() / "store", limits or Limits())
        self._guard = Guard(self._cas)
        self._pins = Pins(self._cas)
        self._local_images, self._settings = local_images, settings or Settings()
        self._layers = LayerImports(self._cas, self._settings.downloads.parallel_layers)
        self._warm: dict[tuple[str, _Who], tuple[list[int], sources.Fingerprint | None, Image]] = {}
        self._running: dict[tuple[str, str, _Who], asyncio.Task[Image]] = {}

    async def pull(
        self, ref: str, policy: Policy, *, progress: Progress | None = None, credentials: Credentials | None = None
    ) -> Image:  # fmt: skip
        """The image, from the store or from where it comes from.

        Always asks the source what the reference points to now; IfNotPresent asks only when the store has no image of
        that name, and for local layouts and archives also when their file changed; Never takes what is on this
        node: the store, and for `localhost/…` the directory of local images.
        credentials are the pod's, by `host[:port][/path]`: an image that only they opened is not given to pods without
        them, unless the registry gives it. Concurrent pulls of one reference with the same ones are one pull. Raises
        an ImageError; `.reason` is the waiting reason.
        """
        reference = names.parse(ref)
        secret = isinstance(reference, names.Registry | names.Stored)
        who: _Who = frozenset(credentials.items()) if credentials and secret else frozenset()
        warm = self._from_memory(ref, reference, policy, who)
        if warm is not None:
            return warm
        key = (ref, policy, who)
        task = self._running.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = asyncio.create_task(self._pull(ref, reference, policy, who, progress or _ignore))
            self._running[key] = task
            task.add_done_callback(partial(self._pulled, key))
        # A caller that gives up does not take the pull away from the others.
        return await asyncio.shield(task)

    def hold(self, image: Image) -> Share:
        """Keep an image from being removed until this is closed or this process ends. A few small writes.

        Raises ImageNotFound when it was removed since it was pulled: pull it again.
        """
        with cas.storage_errors("the image store"):
            pin = self._pins.share(_layers_of(image), [image.id])
            if not self._cas.image_path(image.id).exists():  # it goes before its layers do
                pin.close()
                raise ImageNotFound(f"{image.id}: was removed a moment ago")
            self._cas.touch(image.id)
            return pin

    def hold_again(self, image: Image) -> Share | None:
        """As `hold`, and without a wait, if this process holds it already; else None."""
        pin = self._pins.again(_layers_of(image), [image.id])
        if pin is not None:
            with cas.storage_errors("the image store"):
                self._cas.touch(image.id)
        return pin

    async def collect_forever(self) -> None:
        """Look at the disk now and then, and at once when a pull found it full; never returns."""
        while True:
            try:
                async with asyncio.timeout(self._settings.gc.interval):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            try:
                await asyncio.to_thread(gc.collect, self._state_dir, self._settings.gc)
            except ImageError as error:
                log.error("collecting images: %s", error)

    def watch(self, started: Callable[[m.Layer, Hashing], None]) -> None:
        """Be told, in a worker thread, of each layer that begins to come in; its `count` grows while it does."""
        self._cas.watch = started

    def _pulled(self, key: tuple[str, str, _Who], task: asyncio.Task[Image]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    def _from_memory(self, ref: str, reference: names.Reference, policy: Policy, who: _Who) -> Image | None:
        known = self._warm.get((ref, who))
        if known is None or policy == "Always":
            return None
        record, fingerprint, image = known
        if sources.stat_fingerprint(self._cas.image_path(image.id)) != record:
            return None  # removed, or pulled anew by another process
        if policy == "IfNotPresent" and isinstance(reference, names.Local | names.Layout | names.Archive):
            there = self._source(ref, reference, who).fingerprint()
            if there is not None and there != fingerprint:
                return None
        if self._untrusted(reference, image):
            return None
        self._guarded(ref, image)
        return image

    def _guarded(self, ref: str, image: Image) -> None:
        """ImageBroken when somebody has touched it in the store."""
        try:
            self._guard.check(image.id, image.config, image.layers)
        except ImageError as error:
            raise error.about(ref) from None

    def _untrusted(self, reference: names.Reference, image: Image) -> ImageUntrusted | None:
        """Why the policy of today does not let a stored image run, None when it does."""
        fmt: Literal["aci", "oci"] = "aci" if image.config.format == "aci" else "oci"
        try:
            if isinstance(reference, names.Stored):
                self.trust.again_any(fmt, image.verification.facts)
            else:
                self.trust.again(subject(reference), fmt, image.verification.facts)
            self.trust.current(image.verification.dependencies)
        except ImageUntrusted as error:
            return error
        return None

    async def _pull(
        self, ref: str, reference: names.Reference, policy: Policy, who: _Who, progress: Progress
    ) -> Image:
        try:
            await asyncio.to_thread(self._cas.open)
            with cas.storage_errors("the image store"):
                return await self._resolve(ref, reference, policy, who, progress)
        except ImageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
                self._full.set()
            raise error.about(ref) from error.__cause__

    async def _resolve(
        self, ref: str, reference: names.Reference, policy: Policy, who: _Who, progress: Progress
    ) -> Image:
        if isinstance(reference, names.Stored):
            return await self._stored(ref, reference, who)
        stored = self._cas.load_name(str(reference))
        image = None if stored is None else self._image(stored)
        untrusted = None if image is None else self._untrusted(reference, image)
        if policy == "Never" and not isinstance(reference, names.Local):
            if image is None:
                raise ImageNeverPull("is not present on this node, and the pull policy is Never")
            if untrusted is not None:
                raise untrusted
            if not await asyncio.to_thread(self._may_use, image, who):
                raise ImageNeverPull(f"{_SECRET} (imagePullSecrets), and the pull policy is Never")
            return self._remember(ref, stored, image, who)
        if untrusted is not None:
            # Perhaps it was signed, or a key replaced, since: what comes now is verified as if it were new.
            try:
                return await self._resolve_from_source(ref, reference, None, None, policy, who, progress)
            except ImageUntrusted:
                raise
            except ImageError as error:
                raise ImageUntrusted(f"{untrusted}; fetching it again failed: {error}") from None
        return await self._resolve_from_source(ref, reference, stored, image, policy, who, progress)

    async def _resolve_from_source(
        self, ref: str, reference: names.Reference, stored: dict[str, Any] | None, image: Image | None,
        policy: Policy, who: _Who, progress: Progress,
    ) -> Image:  # fmt: skip
        source = self._source(ref, reference, who)
        seen = (
            source.fingerprint()
        )  # before the source is read: what changes meanwhile is noticed the next time
        try:
            if image is not None and stored is not None and await self._current(source, seen, stored, policy):
                await self._check_access(source, image, who)
                return self._remember(ref, self._refreshed(stored, seen, source), image, who)
            return await self._fetch(ref, reference, source, who, progress)
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

    def _may_use(self, image: Image, who: _Who) -> bool:
        """Whether the image is everybody's, or one of these logins has opened it before."""
        record = self._cas.load_image(image.id) or {}
        return access.allowed(record.get("access"), (Login(*pair) for _, pair in who))

    async def _check_access(self, source: Source, image: Image, who: _Who) -> None:
        """ImageRefused unless whoever asks may use the image: the record says so, or else the registry."""
        registry = source.registry
        if registry is None or await asyncio.to_thread(self._may_use, image, who):
            return
        if not await registry.allows(image.digest):
            raise ImageRefused(f"{_SECRET} (imagePullSecrets)")
        record = self._cas.load_image(image.id)
        if record is not None:
            record["access"] = access.opened(record.get("access"), registry.used, new=False)
            await asyncio.to_thread(self._cas.save, self._cas.image_path(image.id), record)

    def _refreshed(
        self, stored: dict[str, Any], fingerprint: sources.Fingerprint | None, source: Source
    ) -> dict[str, Any]:
        """The name's record with the source as it looks now, so that the next pull need not read it."""
        cache = dict(source.cache)
        if fingerprint in (None, stored["fingerprint"]) and cache in ({}, stored.get("cache")):
            return stored
        stored = {**stored, "fingerprint": fingerprint, "cache": cache}
        self._cas.save(self._cas.name_path(stored["name"]), stored)
        return stored

    async def _fetch(
        self, ref: str, reference: names.Reference, source: Source, who: _Who, progress: Progress
    ) -> Image:
        pin = await asyncio.to_thread(Pin, self._cas)
        try:
            fingerprint = source.fingerprint()
            progress(f"{ref}: resolving")
            found = await source.find()
            if found.note:
                progress(f"{ref}: {found.note}")
                log.warning("%s: %s", ref, found.note)
            fact = found.fact or await self._admit(reference, found, source)
            await asyncio.to_thread(pin.add, [layer.diff_id for layer in found.layers], [found.id])
            await self._layers.run(ref, found.layers, progress)
            pinned = bool(getattr(reference, "digest", ""))
            # Several fsyncs: not on the loop.
            return await asyncio.to_thread(
                self._record, ref, str(reference), found, fingerprint, fact, source, who, pinned=pinned
            )
        finally:
            pin.close()

    async def _admit(self, reference: names.Reference, found: m.Found, source: Source) -> Fact:
        """Policy's word on a docker or OCI image, before any of its layers is fetched. ImageUntrusted."""
        documents = [digest for digest, _ in found.blobs if digest != found.id]
        signatures = None if source.registry is None else partial(_signatures, source.registry)
        return await self.trust.oci(subject(reference), dict.fromkeys([found.digest, *documents]), signatures)

    def _record(
        self, ref: str, name: str, found: m.Found, fingerprint: sources.Fingerprint | None, fact: Fact,
        source: Source, who: _Who, *, pinned: bool,
    ) -> Image:  # fmt: skip
        """Make the image known: documents, image record, name; in this order, so that a name never points nowhere."""
        for digest, data in found.blobs:
            self._cas.put_blob(digest, data)
        how = "signature" if fact.signers else "digest" if pinned else "none"
        verification: dict[str, Any] = {"digest": found.digest, "how": how, "time": cas.now()}
        facts = [fact.to_json()]
        record = {
            "version": 1,
            "id": found.id,
            "digest": found.digest,
            "layers": [layer.diff_id for layer in found.layers],
            "config": found.config.to_json(),
            "documents": [digest for digest, _ in found.blobs],
            "sources": list(found.sources),
            "sizes": list(found.sizes),
            "verification": verification,
        }
        known = self._cas.load_image(found.id)
        if known is not None:
            # A later pull by tag takes nothing away from it, nor one under another name.
            before = known["verification"]
            if known["digest"] == found.digest and (how == "none" or before["how"] == "signature"):
                verification = {key: before[key] for key in verification}
            facts += [f for f in before.get("facts", ()) if f["subject"] != fact.subject]
        below = [needed.to_json() for needed in found.needs]
        record["verification"] = {**verification, "facts": facts, "dependencies": below}
        login = None if source.registry is None else source.registry.used
        record["access"] = access.opened((known or {}).get("access"), login, new=known is None)
        self._cas.save(self._cas.image_path(found.id), record)
        self._cas.touch(found.id)
        stored = {
            "name": name,
            "id": found.id,
            "digest": found.digest,
            "fingerprint": fingerprint,
            "cache": dict(source.cache),
            **_times(),
        }
        self._cas.save(self._cas.name_path(name), stored)
        image = self._image(stored)
        if image is None:
            raise StoreError("removed by somebody while it was pulled")
        return self._remember(ref, stored, image, who)

    def _remember(self, ref: str, stored: dict[str, Any] | None, image: Image, who: _Who) -> Image:
        record = sources.stat_fingerprint(self._cas.image_path(image.id))
        self._guarded(ref, image)
        if record is not None:
            self._warm[ref, who] = (record, None if stored is None else stored["fingerprint"], image)
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
                verification=Verification.from_json(record["verification"]),
            )
        except (KeyError, TypeError) as error:
            log.warning("the record of image %s is damaged (%r), ignored", record["id"], error)
            return None

    async def _stored(self, ref: str, reference: names.Stored, who: _Who) -> Image:
        known = self._cas.images()
        ids = [r["id"] for r in known if r["id"].startswith(reference.id)] or [
            r["id"] for r in known if r["digest"] == reference.id
        ]
        if len(ids) > 1:
            raise ImageNotFound(f"is ambiguous: {', '.join(short(i) for i in ids[:5])}")
        record = self._cas.load_image(ids[0]) if ids else None
        image = self._image({"id": ids[0], "digest": record["digest"], "name": ""}) if record else None
        if image is None:
            raise ImageNotFound("no image with this id in the store")
        if (untrusted := self._untrusted(reference, image)) is not None:
            raise untrusted
        if not await asyncio.to_thread(self._may_use, image, who):
            raise ImageRefused(f"{_SECRET} (imagePullSecrets)")
        return self._remember(ref, None, image, who)

    @property
    def _importer(self) -> Importer:
        return Importer(self._cas, self.trust, Resolver(self._cas, lambda: self.trust, self._pull_dependency))

    async def _pull_dependency(self, ref: str) -> str:
        """Not joined with a pull of the same that is under way: that one may wait for us, if images go in circles."""
        return (await self._pull(ref, names.parse(ref), "IfNotPresent", frozenset(), _ignore)).id

    def _source(self, ref: str, reference: names.Reference, who: _Who) -> Source:
        """Those that need an HTTP client are loaded when they are: that takes as long as starting an app."""
        match reference:
            case names.Local():
                return sources.local(reference, self._local_images)
            case names.Layout():
                return sources.LayoutSource(Path(reference.path), reference.tag)
            case names.Archive():
                return ArchiveSource(reference, self._cas, self._importer, self._signatures.get(ref))
            case names.Registry():
                from executor.stage0.registry import RegistrySource

                node = read_docker_config(self._settings.docker_config)
                return RegistrySource(reference, self._settings, dict(who), node)
            case names.Url() | names.Appc():
                from executor.stage0.webaci import WebAciSource

                return WebAciSource(
                    reference, self._cas, self._settings, self._importer, self._signatures.get(ref)
                )
        raise AssertionError(f"{ref}: stored images have no source")


def _layers_of(image: Image) -> list[str]:
    return [cas.digest_of_name(tree.parent.name) for tree in image.layers]


async def _signatures(registry: sources.Guarded, digest: str) -> "list[Signature]":
    from executor.stage0.trust import cosign

    return await cosign.fetch(registry, digest)


def _times() -> dict[str, str]:
    return {"time": cas.now()}


def _ignore(_: str) -> None:
    """No progress wanted."""
