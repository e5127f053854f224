"""Images in one file: what `docker save` writes, a tar of an OCI layout, an ACI. Told apart by what is inside.

The archive is indexed once (headers only), members are read in place by offset, from several threads at a time;
nothing is unpacked beside it. A compressed docker or OCI archive is first unpacked into an unnamed temporary file.
Sources: Docker image spec v1.2 ("Combined Image JSON + Filesystem Changeset Format"), OCI image-layout.
"""

import asyncio
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import orjson

from executor.stage0 import acisource, layout
from executor.stage0 import config as image_config
from executor.stage0 import manifest as m
from executor.stage0.cas import Cas
from executor.stage0.errors import ImageBroken, ImageNotFound, InvalidImageName, StoreError
from executor.stage0.extract import clean_name
from executor.stage0.names import Archive, parse
from executor.stage0.sources import Fingerprint, stat_fingerprint
from executor.stage0.streams import CHUNK, Limits, Slice, check_bytes, compression, decompress
from executor.stage0.tarstream import Entry, Kind, TarReader
from executor.stage0.trust.subject import subject

_PACKED = {"gzip", "zstd", "bzip2", "xz"}
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_LINKS = 8


class TarFiles:
    """Files of an indexed tar (layout.Files). `close` when all readers are done."""

    def __init__(self, file: IO[bytes], shown: str, limits: Limits) -> None:
        self._file, self._shown, self._limits = file, shown, limits
        self._members: dict[str, Entry] = {}
        reader = TarReader(Slice(file.fileno()), limits)
        while (entry := reader.next()) is not None:
            name = clean_name(entry.name, limits)
            if entry.kind is Kind.DIRECTORY:
                continue
            if name in self._members:
                raise ImageBroken(f"{name[:200]!r} is in the archive twice")
            self._members[name] = entry

    def __str__(self) -> str:
        return self._shown

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, limit: int) -> bytes:
        entry = self._find(name)
        if entry.size > limit:
            raise ImageBroken(f"{name[:200]!r} is longer than {limit} bytes")
        return os.pread(self._file.fileno(), entry.size, entry.offset)

    def open(self, name: str) -> Slice:
        entry = self._find(name)
        return Slice(self._file.fileno(), entry.offset, entry.offset + entry.size)

    def close(self) -> None:
        self._file.close()

    def _find(self, name: str) -> Entry:
        """A regular member; `docker save` links equal layers (`../ID/layer.tar`), within the archive only."""
        for _ in range(_MAX_LINKS):
            entry = self._members.get(name)
            if entry is None:
                raise FileNotFoundError(name)
            if entry.kind is Kind.FILE:
                return entry
            if entry.kind not in {Kind.SYMLINK, Kind.HARDLINK}:
                raise ImageBroken(f"{name[:200]!r} is a {entry.kind}")
            base = os.path.dirname(name) if entry.kind is Kind.SYMLINK else ""
            name = os.path.normpath(os.path.join(base, entry.link))
        raise ImageBroken(f"{name[:200]!r}: links in a circle")


class ArchiveSource:
    """The image of an archive file."""

    cache: Mapping[str, Any] = MappingProxyType({})
    registry = None

    def __init__(
        self, reference: Archive, cas: Cas, importer: acisource.Importer, signature: bytes | None = None
    ) -> None:
        """signature: of an ACI, instead of that beside it."""
        self._given = signature
        self._ref, self._cas, self._importer, self._path = reference, cas, importer, Path(reference.path)
        self._files: TarFiles | None = None

    def fingerprint(self) -> Fingerprint | None:
        return stat_fingerprint(self._path)

    async def current(self, stored: Mapping[str, Any]) -> bool:
        """Only reading the whole archive would tell more than its inode, size and times do."""
        return bool(self.fingerprint() == stored["fingerprint"])

    async def find(self) -> m.Found:
        raw = await asyncio.to_thread(self._raw_aci)
        if raw is None:
            return await asyncio.to_thread(self._find)
        try:
            return await self._importer.find(raw)
        finally:
            raw.file.close()

    async def close(self) -> None:
        if self._files is not None:
            self._files.close()

    def _raw_aci(self) -> acisource.RawAci | None:
        """The file as an ACI, or None when it is something else. The name `.aci` or a signature is believed unread."""
        if self._ref.kind != "auto":
            return None
        with self._file_errors():
            file: IO[bytes] = self._path.open("rb", buffering=0)
            try:
                signature = self._given
                if signature is None:
                    signature = acisource.signature_beside(self._path)
                if self._path.suffix != ".aci" and signature is None and not is_aci(file, self._cas.limits):
                    file.close()
                    return None
                return acisource.RawAci(file, str(self._path), subject(self._ref), signature)
            except BaseException:
                file.close()
                raise

    def _find(self) -> m.Found:
        with self._file_errors():
            files = self._files = self._index()
        if self._ref.kind == "docker" or (self._ref.kind == "auto" and "manifest.json" in files):
            return docker_image(files, self._ref.tag)
        return layout.resolve(files, self._ref.tag)

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise ImageNotFound(f"no such file {self._path}") from None
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from None

    def _index(self) -> TarFiles:
        file: IO[bytes] = self._path.open("rb", buffering=0)
        try:
            if is_packed(file):
                file = self._unpacked(file)
            return TarFiles(file, str(self._path), self._cas.limits)
        except BaseException:
            file.close()
            raise

    def _unpacked(self, packed: IO[bytes]) -> IO[bytes]:
        """The plain tar in a file without a name: gone with the process, whatever happens."""
        file = tempfile.TemporaryFile(dir=self._cas.root / "tmp", buffering=0)  # noqa: SIM115 - the caller closes it
        with packed:
            plain = decompress(Slice(packed.fileno()), self._cas.limits, _PACKED)
            while data := plain.read(CHUNK):
                file.write(data)
        return file


def is_packed(file: IO[bytes]) -> bool:
    """Whether a file starts like gzip, zstd, bzip2 or xz."""
    return compression(os.pread(file.fileno(), 6, 0)) != "none"


def is_aci(file: IO[bytes], limits: Limits) -> bool:
    """By the first entry: an ACI has `manifest` and `rootfs` on top, and nothing else."""
    reader = TarReader(decompress(Slice(file.fileno()), limits, _PACKED), limits)
    while (entry := reader.next()) is not None:
        first = clean_name(entry.name, limits).partition("/")[0]
        if first:
            return first in {"manifest", "rootfs"}
    raise ImageBroken("the archive is empty")


def docker_image(files: TarFiles, tag: str) -> m.Found:
    """The image `tag` (`name:tag`) of a `docker save` archive; without a tag, the only one."""
    entry = _docker_entry(files, tag)
    name = entry["Config"]
    try:
        data = files.read(name, m.MAX_CONFIG)
    except FileNotFoundError:
        raise ImageBroken(f"config {name[:200]!r} is missing in the archive") from None
    image_id = m.digest_of(data)
    promised = _HEX.search(name)
    if promised is not None:
        check_bytes(data, f"sha256:{promised.group()}", "config")
    obj = m.parse_json(data, "config")
    run = image_config.from_oci(obj, kind="docker")
    ids = image_config.diff_ids(obj)
    if len(ids) != len(entry["Layers"]):
        raise ImageBroken(f"config names {len(ids)} layers, the archive {len(entry['Layers'])}")
    layers = tuple(m.Layer(i, partial(_open, files, n)) for i, n in zip(ids, entry["Layers"], strict=True))
    m.check_layers(layers)
    return m.Found(image_id, image_id, run, layers, ((image_id, data),), m.platform_note(run))


def _docker_entry(files: TarFiles, tag: str) -> dict[str, Any]:
    try:
        entries = orjson.loads(files.read("manifest.json", m.MAX_MANIFEST))
    except FileNotFoundError:
        raise ImageNotFound(f"{files} is not a docker archive (no manifest.json in it)") from None
    except orjson.JSONDecodeError as error:
        raise ImageBroken(f"manifest.json: not JSON: {error}") from None
    if not isinstance(entries, list) or not all(_is_docker_entry(e) for e in entries):
        raise ImageBroken("manifest.json: not a list of {Config, RepoTags, Layers}")
    known = sorted({name for e in entries for name in e.get("RepoTags") or []})
    if tag:
        wanted = _normal(tag)
        entries = [e for e in entries if any(_normal(name) == wanted for name in e.get("RepoTags") or [])]
    if not entries:
        raise ImageNotFound(
            f"no image {tag} in {files} (there are: {', '.join(known)[:500] or 'none with a name'})"
        )
    if len(entries) > 1:
        raise ImageNotFound(f"{files} holds several images; name one: {', '.join(known)[:500]}")
    found: dict[str, Any] = entries[0]
    return found


def _is_docker_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
        return False
    lists = (entry.get("Layers"), entry.get("RepoTags") or [])
    return all(isinstance(items, list) and all(isinstance(i, str) for i in items) for items in lists)


def _normal(name: str) -> str:
    """`hello` and `docker.io/library/hello:latest` are the same name."""
    try:
        return str(parse(name))
    except InvalidImageName:
        return name


def _open(files: TarFiles, name: str) -> Slice:
    try:
        return files.open(name)
    except FileNotFoundError:
        raise ImageBroken(f"its file {name[:200]!r} is missing in the archive") from None
