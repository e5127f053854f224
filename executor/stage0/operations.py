"""What can be done with one image of the store, besides running it: show, check, export, render. Blocking.

A library: `gantry image` and rkt's verbs are thin on top of it. Every error is an ImageError that starts with the image
as it was named.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import orjson

from executor.stage0 import acconvert, aci, build, check, gc, inventory
from executor.stage0.cas import Cas, storage_errors
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageBroken, ImageError, ImageNotFound, ImageRefused, ImageUntrusted
from executor.stage0.layout import blob_name
from executor.stage0.removal import remove_tree
from executor.stage0.split import Joined
from executor.stage0.streams import CHUNK, Hashing, Limits, algorithm
from executor.stage0.trust import Fact, Gate

Watch = Callable[[int, int], None]
"""(done, all) bytes."""


@dataclass(frozen=True)
class Stored:
    """An image of a store."""

    cas: Cas
    ref: str
    record: Mapping[str, Any]

    @property
    def is_aci(self) -> bool:
        return bool(self.record["config"]["format"] == "aci")


@contextmanager
def opened(state_dir: Path, ref: str) -> Iterator[Stored]:
    """Find an image by a name it was fetched as, or by a unique beginning of its id. ImageNotFound."""
    try:
        root = state_dir.absolute() / "store"
        if not root.is_dir():
            raise ImageNotFound(f"there is no image store in {state_dir}")
        cas = Cas(root, Limits())
        with storage_errors(f"the image store {root}"):
            cas.open()
            _, image_id = inventory.target(cas, ref)
            record = cas.load_image(image_id)
            if record is None:
                raise ImageNotFound("layers of it are gone from the store; fetch it again")
            yield Stored(cas, ref, record)
    except ImageError as error:
        raise error.about(ref) from None


def documents(image: Stored) -> dict[str, bytes]:
    """Its documents by digest: an ACI's manifest; index, manifest and config of an OCI image."""
    found = {}
    for digest in image.record.get("documents", ()):
        try:
            found[digest] = image.cas.blob_path(digest).read_bytes()
        except FileNotFoundError:
            raise ImageBroken(f"document {digest[:19]} is gone from the store") from None
    return found


def manifest(image: Stored, *, config: bool = False) -> dict[str, Any]:
    """The manifest; with `config` an OCI image's config. ImageNotFound for what this kind of image does not have."""
    for digest, data in documents(image).items():
        obj = orjson.loads(data)
        is_config = digest == image.record["id"]
        if (config and is_config) or (not config and not is_config and "manifests" not in obj):
            return dict(obj)
    what = "config" if config else "manifest"
    raise ImageNotFound(f"has no {what} of its own" + (" (ACIs have one manifest)" if config else ""))


def appc_manifest(image: Stored) -> dict[str, Any]:
    """An appc image manifest of any image: an ACI's own, or what docker2aci would make of a docker or OCI image."""
    if image.is_aci:
        return manifest(image)
    named = [name["name"] for name in image.cas.names() if name["id"] == image.record["id"]]
    config = ImageConfig.from_json(image.record["config"])
    reference = image.ref if image.ref in named else (named or [str(image.record["id"])])[0]
    return acconvert.from_config(config, reference, str(image.record["id"]), str(image.record["digest"]))


def verify(image: Stored, gate: Gate, *, content: bool = True, watch: Watch | None = None) -> list[str]:
    """What is wrong with it, [] when nothing: every byte in the store, and policy and keys as they are today."""
    problems = check.documents(image.cas, image.record)
    layers = list(dict.fromkeys(gc.trees(image.record)))
    sizes = [image.cas.usage(layer).bytes for layer in layers]
    for number, layer in enumerate(layers):
        if watch is not None:
            watch(sum(sizes[:number]), sum(sizes))
        found = check.layer_problems(image.cas, layer, content=content)
        problems += [f"layer {layer[:27]}: {problem}" for problem in found]
    if watch is not None:
        watch(sum(sizes), sum(sizes))
    verification = image.record["verification"]
    try:
        facts = [Fact.from_json(fact) for fact in verification.get("facts", ())]
        gate.again_any("aci" if image.is_aci else "oci", facts)
        gate.current(Fact.from_json(fact) for fact in verification.get("dependencies", ()))
    except ImageUntrusted as error:
        problems.append(f"not trusted: {error}")
    return problems


def render(image: Stored, target: Path) -> None:
    """The image's whole root file system as a new directory. ImageRefused when it is there already."""
    trees = [image.cas.tree(layer) for layer in reversed(image.record["layers"])]
    with _new(target) as temporary:
        temporary.mkdir(mode=0o755)
        root = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            aci.render(trees, root)
        finally:
            os.close(root)


def export_aci(image: Stored, target: Path, *, watch: Watch | None = None) -> str:
    """The ACI's plain tar, bit by bit as its id says; gives the id. Its dependencies are images of their own."""
    if not image.is_aci:
        raise ImageRefused("is not an ACI; export it with --oci DIR:TAG")
    image_id = str(image.record["id"])
    with _new(target) as temporary, temporary.open("xb") as file:
        _layer(image, image_id.replace("-", ":", 1), file.write, watch, 0, 0)
        file.flush()
        os.fsync(file.fileno())
    return image_id


def export_oci(image: Stored, layout: Path, tag: str, *, watch: Watch | None = None) -> str:
    """Into an OCI layout, layers uncompressed; gives the new manifest's digest.

    Config and so the image's id are the same; the manifest is not, as it names the layers by how they are packed.
    """
    if image.is_aci:
        raise ImageRefused("is an ACI; export it with --aci FILE")
    config = documents(image).get(str(image.record["id"]))
    if config is None:
        raise ImageBroken("its config is gone from the store")
    layers = [str(layer) for layer in image.record["layers"]]
    sizes = {layer: image.cas.usage(layer).bytes for layer in layers}
    descriptors, done = [], 0
    with storage_errors(f"writing {layout}"), build.layout_lock(layout):
        for layer in layers:
            size = _export_layer(image, layer, layout, watch, done, sum(sizes[each] for each in layers))
            done += sizes[layer]
            descriptors.append(
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}
            )
        return build.add_image(layout, tag, config, descriptors)


def _export_layer(image: Stored, layer: str, layout: Path, watch: Watch | None, done: int, total: int) -> int:
    target = layout / blob_name(layer)
    if target.exists():
        return target.stat().st_size
    temporary = layout / f".{token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            _layer(image, layer, file.write, watch, done, total)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
    return size


def _layer(
    image: Stored, layer: str, write: Callable[[bytes], object], watch: Watch | None, done: int, total: int
) -> None:
    """The plain tar of a layer, checked against its digest. ImageBroken when the store was changed."""
    directory = image.cas.layer_dir(layer)
    if not directory.exists():
        raise ImageBroken(f"layer {layer[:27]} is gone from the store")
    root = os.open(directory / "tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        tar = Hashing(Joined(directory / "split", root), algorithm(layer))
        while data := tar.read(CHUNK):
            write(data)
            if watch is not None:
                watch(done + tar.count, max(total, done + tar.count))
    except ImageBroken as error:
        raise ImageBroken(f"layer {layer[:27]}: {error}") from None
    finally:
        os.close(root)
    if tar.digest() != layer:
        raise ImageBroken(f"layer {layer[:27]}: was changed in the store; it is not exported")


@contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A name beside the target, moved there when all went well. Nothing that is there is overwritten."""
    if os.path.lexists(target):
        raise ImageRefused(f"{target} is there already")
    temporary = target.with_name(f".{target.name}.{token_hex(4)}")
    try:
        with storage_errors(f"writing {target}"):
            yield temporary
            temporary.rename(target)
    finally:
        if temporary.is_dir() and not temporary.is_symlink():
            remove_tree(temporary)
        else:
            temporary.unlink(missing_ok=True)
