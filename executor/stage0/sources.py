"""Where an image comes from: one `Source` for each kind of reference, all giving the same `Found`.

A source knows how to find; the store knows how to keep. `fingerprint` is what makes a warm pull cheap: as long as it is
what it was at the import (a stat of the layout's index or of the archive), the source has nothing new to say.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from executor.stage0 import layout, names
from executor.stage0 import manifest as m
from executor.stage0.errors import ImageNotFound
from executor.stage0.login import Login

Fingerprint = list[int]


class Repository(Protocol):
    """Small documents of one repository."""

    async def manifest(self, what: str) -> tuple[str, bytes, str]:
        """(digest, bytes, media type) of a tag or digest, checked. ImageNotFound."""

    async def blob(self, descriptor: m.Descriptor) -> bytes:
        """A small blob, checked against its digest and size."""


class Guarded(Repository, Protocol):
    """A repository that asks who wants its images."""

    @property
    def used(self) -> Login | None:
        """The login without which this image was not to be had, None when everybody may have it."""

    async def allows(self, digest: str) -> bool:
        """Whether whoever asks may read this manifest now."""


class Source(Protocol):
    """Finds one image."""

    def fingerprint(self) -> Fingerprint | None:
        """Changes when the source's answer may have changed; None: cannot be told, or the source is gone."""

    async def find(self) -> m.Found:
        """Resolve the reference. ImageNotFound, ImageBroken, RegistryUnavailable."""

    async def current(self, stored: Mapping[str, Any]) -> bool:
        """Whether the reference still leads to what a name record says, as cheaply as can be."""

    async def close(self) -> None: ...

    @property
    def cache(self) -> Mapping[str, Any]:
        """What a later pull needs to know to spare the download; empty for most."""

    @property
    def registry(self) -> Guarded | None:
        """Itself, where logins open images and signatures lie beside them."""


class LayoutSource:
    """An OCI layout directory: `oci:DIR:TAG`, and `localhost/NAME:TAG` below the directory of local images."""

    cache: Mapping[str, Any] = MappingProxyType({})
    registry = None

    def __init__(
        self, path: Path, tag: str, digest: str = "", *, available: Callable[[], str] | None = None
    ) -> None:
        self._path, self._tag, self._digest, self._available = path, tag, digest, available

    def fingerprint(self) -> Fingerprint | None:
        return stat_fingerprint(self._path / "index.json")

    async def find(self) -> m.Found:
        return await asyncio.to_thread(self._find)

    async def current(self, stored: Mapping[str, Any]) -> bool:
        files = layout.Directory(self._path)
        try:
            found = layout.pick(files, layout.read_index(files), self._tag, self._digest)
        except ImageNotFound:
            return False  # find says it better
        return found.digest == str(stored["digest"])

    async def close(self) -> None:
        pass

    def _find(self) -> m.Found:
        try:
            return layout.resolve(layout.Directory(self._path), self._tag, self._digest)
        except ImageNotFound:
            if self._available is not None and not (self._path / "index.json").exists():
                raise ImageNotFound(self._available()) from None
            raise


def local(reference: names.Local, local_images: Path | None) -> LayoutSource:
    """This node's own image. ImageNotFound when the node has no directory of local images."""
    if local_images is None:
        raise ImageNotFound("this node has no local images (start the executor with --local-images DIR)")

    def available() -> str:
        there = ", ".join(layout.list_local(local_images)) or "none"
        return f"no such image in {local_images} (there are: {there})"

    return LayoutSource(local_images / reference.name, reference.tag, reference.digest, available=available)


def stat_fingerprint(path: Path) -> Fingerprint | None:
    """Inode, size, mtime and ctime of a file; None when it is not there."""
    try:
        info = path.stat()
    except OSError:
        return None
    return [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
