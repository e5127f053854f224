"""OCI image layouts: a directory (or the same inside a tar) with `index.json` and `blobs/ALGORITHM/HEX`.

Reads through `Files`, so that archive.py needs no second copy of this. Every document is checked against its digest and
size before it is parsed. Source: OCI image-spec `image-layout.md`.
"""

import os
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from executor.stage0 import manifest as m
from executor.stage0.errors import ImageBroken, ImageNotFound, StoreError
from executor.stage0.streams import check_bytes


class Files(Protocol):
    """Named files: a directory or an indexed archive."""

    def read(self, name: str, limit: int) -> bytes:
        """The whole file. FileNotFoundError; ImageBroken when it is longer than `limit`."""

    def open(self, name: str) -> m.Blob:
        """The file as a stream, for one reading."""

    def __str__(self) -> str: ...


class Directory:
    """Files of a directory; names come from us or from checked digests, never from the image's free text."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self, name: str, limit: int) -> bytes:
        with self.open(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ImageBroken(f"{name} is longer than {limit} bytes")
        return data

    def open(self, name: str) -> BinaryIO:
        return (self._path / name).open("rb", buffering=0)


def read_index(files: Files) -> m.Index:
    """`index.json`. ImageNotFound when this is no layout."""
    try:
        version = m.parse_json(files.read("oci-layout", 65536), "oci-layout").get("imageLayoutVersion")
        data = files.read("index.json", m.MAX_MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageNotFound(f"{files} is not an OCI layout (no oci-layout or index.json)") from None
    except OSError as error:
        raise StoreError(f"{files}: {error.strerror}") from None
    if version != "1.0.0":
        raise ImageBroken(f"{files}: OCI layout version {version!r} is not supported (1.0.0 is)")
    index = m.parse(data, m.OCI_INDEX)
    if not isinstance(index, m.Index):
        raise ImageBroken(f"{files}: index.json is not an index")
    return index


def pick(files: Files, index: m.Index, tag: str, digest: str = "") -> m.Descriptor:
    """The entry of a tag or digest; without either, the only one."""
    entries = list(index.manifests)
    if digest:
        entries = [e for e in entries if e.digest == digest]
    elif tag:
        entries = [e for e in entries if e.tag == tag]
    if not entries:
        tags = ", ".join(sorted({e.tag for e in index.manifests if e.tag})) or "none"
        wanted = f"digest {digest}" if digest else f"tag {tag}" if tag else "image"
        raise ImageNotFound(f"no {wanted} in {files} (there are: {tags[:500]})")
    if len({e.digest for e in entries}) == 1:
        return entries[0]
    if not digest and not tag:
        tags = ", ".join(sorted({e.tag for e in entries if e.tag}))
        raise ImageNotFound(f"{files} holds several images; name one by its tag ({tags[:500]})")
    return m.choose(m.Index(tuple(entries)), m.host_platform())


def resolve(files: Files, tag: str, digest: str = "") -> m.Found:
    """Everything about an image of a layout. Blocking; small reads."""
    top = entry = pick(files, read_index(files), tag, digest)
    documents: list[tuple[str, bytes]] = []
    for _ in range(m.MAX_INDEX_DEPTH):
        data = _document(files, entry, m.MAX_MANIFEST, "manifest")
        documents.append((entry.digest, data))
        parsed = m.parse(data, entry.media_type)
        if isinstance(parsed, m.Manifest):
            config = _document(files, parsed.config, m.MAX_CONFIG, "config")
            return m.found(parsed, top.digest, documents, config, lambda layer: partial(_open, files, layer))
        entry = m.choose(parsed, m.host_platform())
    raise ImageBroken(f"more than {m.MAX_INDEX_DEPTH} indexes within one another")


def blob_name(digest: str) -> str:
    """`blobs/sha256/…`; the digest's form has been checked."""
    algorithm, _, hexdigest = digest.partition(":")
    return f"blobs/{algorithm}/{hexdigest}"


def _document(files: Files, entry: m.Descriptor, limit: int, what: str) -> bytes:
    try:
        data = files.read(blob_name(entry.digest), limit)
    except FileNotFoundError:
        raise ImageBroken(f"{what} {entry.digest} is missing in {files}") from None
    if len(data) != entry.size:
        raise ImageBroken(f"{what} {entry.digest} has {len(data)} bytes, its descriptor says {entry.size}")
    check_bytes(data, entry.digest, what)
    return data


def _open(files: Files, layer: m.Descriptor) -> m.Blob:
    try:
        return files.open(blob_name(layer.digest))
    except FileNotFoundError:
        raise ImageBroken(f"its blob is missing in {files}") from None


def list_local(directory: Path, limit: int = 20) -> list[str]:
    """`name:tag` of the layouts below a directory of local images, for messages and listings."""
    names: list[str] = []
    for parent, children, files in os.walk(directory):
        children.sort()
        if "index.json" in files:
            children.clear()
            name = os.path.relpath(parent, directory)
            try:
                index = read_index(Directory(Path(parent)))
            except (ImageBroken, ImageNotFound, StoreError):
                continue  # not one that could be pulled
            names += sorted({f"{name}:{entry.tag}" for entry in index.manifests if entry.tag})
        if os.path.relpath(parent, directory).count("/") >= 2:
            children.clear()
        if len(names) >= limit:
            break
    return names[:limit]
