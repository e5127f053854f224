"""From the raw bytes of an ACI to an image: the one way in, for files, URLs and what discovery found.

The archive is a file here, as it came and unread: whatever has to be known of it before it is parsed can be.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import orjson

from executor.stage0 import aci, acmanifest
from executor.stage0 import manifest as m
from executor.stage0.cas import Cas
from executor.stage0.dependencies import Resolver
from executor.stage0.errors import ImageBroken, StoreError
from executor.stage0.extract import Summary
from executor.stage0.streams import Hashing, Slice
from executor.stage0.trust import Fact, Gate

MAX_SIGNATURE = 1024 * 1024


@dataclass(frozen=True)
class RawAci:
    """An ACI that nobody has looked into. file: read by offset, closed by whoever made this; shown: path or URL.

    subject: what policy knows the request by; signature: the detached OpenPGP signature (`.asc`, armored or not) that
    lay beside it, None when there was none.
    name, labels: what discovery was asked for, which the manifest has to say as well; empty when nothing was asked.
    """

    file: IO[bytes]
    shown: str
    subject: str
    signature: bytes | None = None
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def signature_beside(path: Path) -> bytes | None:
    """`x.aci.asc` next to `x.aci`. ImageBroken when it is no signature by its size; OSError."""
    beside = path.with_name(path.name + ".asc")
    try:
        with beside.open("rb") as file:
            data = file.read(MAX_SIGNATURE + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_SIGNATURE:
        raise ImageBroken(f"{beside} is longer than {MAX_SIGNATURE} bytes")
    return data


@dataclass(frozen=True)
class Importer:
    """Takes ACIs in, with what they depend on."""

    cas: Cas
    gate: Gate
    resolver: Resolver

    async def find(self, raw: RawAci) -> m.Found:
        """Verify and import an ACI. ImageUntrusted, ImageBroken, StoreError."""
        own = await asyncio.to_thread(_import, raw, self.cas, self.gate)
        lower = await self.resolver.lower(own.manifest)
        stack = (*lower.layers, own.diff_id)
        whitelist = own.manifest.get("pathWhitelist") or ()
        layers = (await asyncio.to_thread(self._render, stack, whitelist),) if whitelist else stack
        image_id = own.diff_id.replace(":", "-")
        return m.Found(
            image_id,
            image_id,
            acmanifest.image_config(own.manifest),
            tuple(m.Layer(layer, _gone) for layer in layers),
            ((m.digest_of(own.document), own.document),),
            acmanifest.remarks(own.manifest),
            own.fact,
            needs=lower.facts,
            sources=tuple(layer for layer in stack if layer not in layers),
            sizes=own.sizes,
        )

    def _render(self, stack: Sequence[str], whitelist: Sequence[str]) -> str:
        """One tree of what a whitelist leaves of the layers, as a layer of its own."""
        words = orjson.dumps([list(stack), sorted(set(whitelist))])
        name = f"rendered:{hashlib.sha512(words).hexdigest()}"
        if not self.cas.has_layer(name):
            trees = [self.cas.tree(layer) for layer in reversed(stack)]
            self.cas.import_tree(lambda root, _: (name, aci.render(trees, root, whitelist)))
        return name


@dataclass(frozen=True)
class _Own:
    """An ACI without what it depends on; its layer is in the store. sizes: packed and plain bytes."""

    diff_id: str
    document: bytes
    manifest: dict[str, Any]
    fact: Fact
    sizes: tuple[int, int]


def _import(raw: RawAci, cas: Cas, gate: Gate) -> _Own:
    """The gate sees the raw bytes first; they are hashed again while they are unpacked, so that what was verified is
    what is imported, whoever can write the file. Nothing stays of an image that the gate or the spec refuses.
    """
    fd = raw.file.fileno()
    checked = gate.raw(raw.subject, partial(Slice, fd), raw.signature)
    made: list[_Own] = []

    def fill(root: int, split: Path) -> tuple[str, Summary]:
        source = Hashing(Slice(fd), "sha512")
        unpacked = aci.unpack(source, root, cas.limits, split)
        source.drain()
        if checked is not None:
            source.verify(checked.digest)
        manifest = acmanifest.parse_manifest(unpacked.manifest)
        check_request(manifest, raw)
        fact = gate.aci(raw.subject, manifest["name"], checked)
        acmanifest.check_host(acmanifest.image_config(manifest))
        sizes = (source.count, unpacked.size)
        made.append(_Own(unpacked.digest, unpacked.manifest, manifest, fact, sizes))
        return unpacked.digest, unpacked.summary

    cas.import_tree(fill)
    return made[0]


def _gone() -> NoReturn:
    """These layers are in the store before the image is known; somebody has removed one in between."""
    raise StoreError("was removed while the image was imported; try again")


def check_request(manifest: Mapping[str, Any], raw: RawAci) -> None:
    """The manifest says the name and every label that discovery was asked for. Source: appc `discovery.md`."""
    if not raw.name:
        return
    if manifest["name"] != raw.name:
        raise ImageBroken(f"{raw.shown} is {manifest['name']!r}, not {raw.name!r}")
    labels = {entry["name"]: entry["value"] for entry in manifest.get("labels") or []}
    for key, value in raw.labels.items():
        if labels.get(key) != value:
            raise ImageBroken(f"{raw.shown}: its label {key} is {labels.get(key)!r}, {value!r} was asked for")
