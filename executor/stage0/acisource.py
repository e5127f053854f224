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
from executor.stage0.streams import Slice

MAX_SIGNATURE = 1024 * 1024


@dataclass(frozen=True)
class RawAci:
    """An ACI that nobody has looked into. file: read by offset, closed by whoever made this; shown: path or URL.

    signature: the detached OpenPGP signature (`.asc`, armored or not) that lay beside it, None when there was none.
    name, labels: what discovery was asked for, which the manifest has to say as well; empty when nothing was asked.
    """

    file: IO[bytes]
    shown: str
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


async def find(raw: RawAci, cas: Cas) -> m.Found:
    """Import an ACI. ImageBroken, StoreError."""
    return await asyncio.to_thread(_import, raw, cas)


def _import(raw: RawAci, cas: Cas) -> m.Found:
    documents: list[bytes] = []

    def fill(root: int) -> tuple[str, Summary]:
        digest, summary, data = aci.unpack(Slice(raw.file.fileno()), root, cas.limits)
        documents.append(data)
        manifest = acmanifest.parse_manifest(data)
        check_request(manifest, raw)
        check_aci(manifest, root)
        return digest, summary

    diff_id = cas.import_tree(fill)
    manifest = acmanifest.parse_manifest(documents[0])
    image_id = diff_id.replace(":", "-")
    layer = m.Layer(diff_id, partial(Slice, raw.file.fileno()))
    blobs = ((m.digest_of(documents[0]), documents[0]),)
    return m.Found(image_id, image_id, acmanifest.image_config(manifest), (layer,), blobs)


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
