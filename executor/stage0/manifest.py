"""OCI and Docker manifests: descriptors, the choice of a platform, and what an image consists of.

Pure: bytes in, dataclasses out; who reads the bytes (a directory, an archive, a registry) has checked their digest.
Sources: OCI image-spec `manifest.md`, `image-index.md`, `descriptor.md`; Docker image manifest v2 schema 2.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson

from executor.stage0 import config as image_config
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageBroken, ImageNotFound, one_line
from executor.stage0.names import is_digest
from executor.stage0.platforms import host_platform as host_platform
from executor.stage0.platforms import host_variants

if TYPE_CHECKING:
    from executor.stage0.trust.policy import Fact

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ACCEPT = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))

MAX_MANIFEST = 4 * 1024 * 1024  # what registries accept at most
MAX_CONFIG = 8 * 1024 * 1024
MAX_LAYERS = 200  # more do not fit into the options of one overlay mount
MAX_INDEX_DEPTH = 3


@dataclass(frozen=True)
class Descriptor:
    """A reference to content: its media type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: tuple[str, str] = ("", "")  # os, architecture
    tag: str = ""  # org.opencontainers.image.ref.name
    foreign: bool = False
    variant: str = ""  # of the architecture


@dataclass(frozen=True)
class Index:
    """An image index or manifest list."""

    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Manifest:
    """An image manifest; layers base first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class Blob(Protocol):
    """A blob open for one reading, in a worker thread."""

    def read(self, n: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Layer:
    """A layer to import: diff_id is the digest of the plain tar; digest and size those of the blob, if promised."""

    diff_id: str
    open: Callable[[], Blob]
    digest: str = ""
    size: int | None = None


@dataclass(frozen=True)
class Found:
    """What a source found behind a reference: everything but the layers' bytes.

    id: digest of the config; digest: of what the reference led to (index or manifest, as Kubernetes reports it);
    blobs: documents to keep beside the image, by digest; note: something the user should hear ("" for nothing);
    fact: what the gate said, where the source has asked it (ACIs: before they are parsed); needs: the same for what it
    depends on; sources: layers that are not mounted, but were rendered into one that is; sizes: of an ACI, packed and
    plain.
    """

    id: str
    digest: str
    config: ImageConfig
    layers: tuple[Layer, ...]
    blobs: tuple[tuple[str, bytes], ...]
    note: str = ""
    fact: "Fact | None" = None
    needs: "tuple[Fact, ...]" = ()
    sources: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()


def digest_of(data: bytes) -> str:
    """sha256 of a document."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object, or ImageBroken."""
    try:
        obj = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ImageBroken(f"{what}: not JSON: {str(error)[:200]}") from None
    if not isinstance(obj, dict):
        raise ImageBroken(f"{what}: not a JSON object")
    return obj


def parse(data: bytes, media_type: str = "") -> Index | Manifest:
    """A manifest or index; the media type is taken from the document, then from the argument, then from its shape."""
    obj = parse_json(data, "manifest")
    kind = obj.get("mediaType") or media_type
    if not isinstance(kind, str):
        raise ImageBroken("manifest: mediaType is not a string")
    if obj.get("schemaVersion") == 1:
        raise ImageBroken(
            "manifest: Docker schema 1 is not supported (it carries no digests of the layers' content)"
        )
    if kind in {OCI_INDEX, DOCKER_INDEX} or (
        kind not in {OCI_MANIFEST, DOCKER_MANIFEST} and "manifests" in obj
    ):
        if "layers" in obj:
            raise ImageBroken("manifest: both an index and an image (CVE-2021-41190)")
        return Index(_descriptors(obj.get("manifests"), "manifests"))
    if kind not in {OCI_MANIFEST, DOCKER_MANIFEST, ""} and "layers" not in obj:
        raise ImageBroken(f"manifest: media type {kind!r} is not an image")
    if "manifests" in obj:
        raise ImageBroken("manifest: both an image and an index (CVE-2021-41190)")
    config = descriptor(obj.get("config"), "config")
    if config.media_type not in {OCI_CONFIG, DOCKER_CONFIG, ""}:
        raise ImageBroken(f"manifest: not a runnable image: its config is {config.media_type!r}")
    layers = _descriptors(obj.get("layers"), "layers")
    if len(layers) > MAX_LAYERS:
        raise ImageBroken(f"manifest: {len(layers)} layers (limit {MAX_LAYERS})")
    for number, layer in enumerate(layers, 1):
        if layer.foreign:
            raise ImageBroken(f"layer {number} ({layer.digest}): foreign layers are refused")
    return Manifest(config, layers)


def descriptor(obj: object, where: str) -> Descriptor:
    """One descriptor. ImageBroken when a field is missing or has another type."""
    if not isinstance(obj, dict):
        raise ImageBroken(f"manifest: {where} is missing or not an object")
    digest, size = obj.get("digest"), obj.get("size")
    media_type = obj.get("mediaType", "")
    if not is_digest(digest) or not isinstance(digest, str):
        raise ImageBroken(f"manifest: {where}: digest {str(digest)[:160]!r} is not sha256:… or sha512:…")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise ImageBroken(f"manifest: {where}: size {str(size)[:40]!r} is not a size")
    if not isinstance(media_type, str):
        raise ImageBroken(f"manifest: {where}: mediaType is not a string")
    platform = obj.get("platform") or {}
    annotations = obj.get("annotations") or {}
    if not isinstance(platform, dict) or not isinstance(annotations, dict):
        raise ImageBroken(f"manifest: {where}: platform or annotations are not objects")
    return Descriptor(
        media_type,
        digest,
        size,
        (str(platform.get("os", "")), str(platform.get("architecture", ""))),
        str(annotations.get("org.opencontainers.image.ref.name", "")),
        bool(obj.get("urls")) or "foreign" in media_type or "nondistributable" in media_type,
        str(platform.get("variant", "")),
    )


def choose(index: Index, platform: tuple[str, str]) -> Descriptor:
    """The manifest for a platform; an index of one image without a platform is that image."""
    mine = {entry.variant: entry for entry in reversed(index.manifests) if entry.platform == platform}
    for variant in host_variants() if platform == host_platform() else tuple(mine):
        if variant in mine:
            return mine[variant]
    bare = [entry for entry in index.manifests if entry.platform == ("", "")]
    if len(bare) == 1 and len(index.manifests) == 1:
        return bare[0]
    known = ", ".join(sorted({_shown(e) for e in index.manifests if e.platform != ("", "")})) or "none"
    raise ImageNotFound(f"no image for {'/'.join(platform)} (there are: {known[:500]})")


def _shown(entry: Descriptor) -> str:
    return "/".join((*entry.platform, entry.variant)).rstrip("/")


def found(
    manifest: Manifest, digest: str, documents: list[tuple[str, bytes]], config: bytes,
    opener: Callable[[Descriptor], Callable[[], Blob]],
) -> Found:  # fmt: skip
    """Put an image together from its checked manifest and config. opener(layer) gives the function that opens it."""
    obj = parse_json(config, "config")
    kind: Literal["oci", "docker"] = "docker" if manifest.config.media_type == DOCKER_CONFIG else "oci"
    run = image_config.from_oci(obj, kind=kind)
    ids = image_config.diff_ids(obj)
    if len(ids) != len(manifest.layers):
        raise ImageBroken(f"config names {len(ids)} layers, the manifest {len(manifest.layers)}")
    layers = tuple(
        Layer(diff_id, opener(layer), layer.digest, layer.size)
        for diff_id, layer in zip(ids, manifest.layers, strict=True)
    )
    check_layers(layers)
    blobs = (*documents, (manifest.config.digest, config))
    return Found(manifest.config.digest, digest, run, layers, blobs, platform_note(run))


def check_layers(layers: tuple[Layer, ...]) -> None:
    """Every diff_id is a digest; an image has at least one layer."""
    if not layers:
        raise ImageBroken("the image has no layers")
    for number, layer in enumerate(layers, 1):
        if not is_digest(layer.diff_id):
            raise ImageBroken(f"config: diff_id of layer {number} is not a digest: {layer.diff_id[:160]!r}")


def platform_note(run: ImageConfig) -> str:
    """ImageBroken for another operating system; a remark for another processor (binfmt_misc may run it)."""
    system, architecture = host_platform()
    if run.os != system:
        raise ImageBroken(f"the image is for {run.os}, this machine runs {system}")
    if run.architecture and run.architecture != architecture:
        return one_line(f"the image is for {run.architecture[:100]}, this machine is {architecture}")
    return ""


def _descriptors(value: object, where: str) -> tuple[Descriptor, ...]:
    if not isinstance(value, list):
        raise ImageBroken(f"manifest: {where} is missing or not a list")
    return tuple(descriptor(item, f"{where}[{i}]") for i, item in enumerate(value))
