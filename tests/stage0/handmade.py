"""Tars and OCI layouts made by hand, with whatever is wrong with them."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path


class Tar:
    """A tar made entry by entry, with whatever is wrong with it."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> "Tar":
        info = tarfile.TarInfo(name)
        info.type, info.size, info.mode = kind, len(content), 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in more.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(content))
        return self

    def dir(self, name: str, **more: object) -> "Tar":
        return self.add(name, kind=tarfile.DIRTYPE, **more)

    def link(self, name: str, target: str) -> "Tar":
        return self.add(name, kind=tarfile.SYMTYPE, linkname=target)

    def hard(self, name: str, target: str) -> "Tar":
        return self.add(name, kind=tarfile.LNKTYPE, linkname=target)

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An OCI layout written by hand, so that any part of it can be wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, object]] = []
        self.index()

    def blob(self, data: bytes, media_type: str) -> dict[str, object]:
        (self.path / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": media_type, "digest": sha(data), "size": len(data)}

    def layer(self, plain: bytes) -> tuple[dict[str, object], str]:
        blob = self.blob(gzip.compress(plain, 1, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
        return blob, sha(plain)

    def image(
        self, tag: str, *tars: bytes, config: dict[str, object] | None = None,
        layers: list[tuple[dict[str, object], str]] | None = None,
        edit: Callable[[dict[str, object]], object] | None = None,
    ) -> dict[str, object]:  # fmt: skip
        parts = layers if layers is not None else [self.layer(t) for t in tars]
        document = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(
                os.uname().machine, os.uname().machine
            ),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in parts]},
            **(config or {}),
        }
        manifest: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [blob for blob, _ in parts],
        }
        if edit is not None:
            edit(manifest)
        entry = self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        self.tag(tag, entry)
        return entry

    def tag(self, tag: str, entry: dict[str, object]) -> None:
        self.manifests.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        self.index()

    def index(self) -> None:
        text = json.dumps({"schemaVersion": 2, "manifests": self.manifests})
        (self.path / "index.json").write_text(text)
