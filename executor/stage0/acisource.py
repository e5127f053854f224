"""From the raw bytes of an ACI to an image: the one way in, for files, URLs and what discovery found.

The archive is a file here, as it came and unread: whatever has to be known of it before it is parsed can be.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from executor.stage0 import aci, acmanifest
from executor.stage0 import manifest as m
from executor.stage0.cas import Cas
from executor.stage0.errors import ImageBroken
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


async def find(raw: RawAci, cas: Cas, gate: Gate) -> m.Found:
    """Verify and import an ACI. ImageUntrusted, ImageBroken, StoreError."""
    return await asyncio.to_thread(_import, raw, cas, gate)


def _import(raw: RawAci, cas: Cas, gate: Gate) -> m.Found:
    """The gate sees the raw bytes first; they are hashed again while they are unpacked, so that what was verified is
    what is imported, whoever can write the file. Nothing stays of an image that the gate or the spec refuses.
    """
    fd = raw.file.fileno()
    checked = gate.raw(raw.subject, partial(Slice, fd), raw.signature)
    documents: list[tuple[bytes, dict[str, Any], Fact]] = []

    def fill(root: int) -> tuple[str, Summary]:
        source = Hashing(Slice(fd), "sha512")
        digest, summary, data = aci.unpack(source, root, cas.limits)
        source.drain()
        if checked is not None:
            source.verify(checked.digest)
        manifest = acmanifest.parse_manifest(data)
        check_request(manifest, raw)
        documents.append((data, manifest, gate.aci(raw.subject, manifest["name"], checked)))
        check_aci(manifest, root)
        return digest, summary

    diff_id = cas.import_tree(fill)
    data, manifest, fact = documents[0]
    image_id = diff_id.replace(":", "-")
    layer = m.Layer(diff_id, partial(Slice, fd))
    blobs = ((m.digest_of(data), data),)
    return m.Found(image_id, image_id, acmanifest.image_config(manifest), (layer,), blobs, fact=fact)


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


def check_aci(manifest: Mapping[str, Any], root: int) -> None:
    """What cannot be run is not imported; a path whitelist is applied to the tree."""
    acmanifest.check_host(acmanifest.image_config(manifest))
    if manifest.get("dependencies"):
        wanted = ", ".join(str(d["imageName"]) for d in manifest["dependencies"])
        raise ImageBroken(
            f"depends on other images ({wanted[:200]}), which is not supported yet; flatten it first"
        )
    if manifest.get("pathWhitelist"):
        aci.keep_only(root, manifest["pathWhitelist"])
