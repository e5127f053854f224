"""A registry that misbehaves as it is told."""

import gzip
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

MANIFEST = "application/vnd.oci.image.manifest.v1+json"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Fake:
    """Serves one image; `on(kind)` replaces the answer for "manifests" or "blobs"; `seen` are the requests."""

    def __init__(self, layer: bytes) -> None:
        self.packed = gzip.compress(layer, 1)
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        diff = "sha256:" + hashlib.sha256(layer).hexdigest()
        config = {"architecture": machine, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff]}}
        self.config = json.dumps(config).encode()
        self.document = {
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self._describe(self.config, "application/vnd.oci.image.config.v1+json"),
            "layers": [self._describe(self.packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }  # fmt: skip
        self.manifest = json.dumps(self.document).encode()
        self.handlers: dict[str, Handler] = {}
        self.seen: list[web.Request] = []
        self.host = ""

    def _describe(self, data: bytes, media_type: str) -> dict[str, Any]:
        return {
            "mediaType": media_type,
            "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }

    @property
    def layer(self) -> str:
        digest: str = self.document["layers"][0]["digest"]  # type: ignore[index]
        return digest

    def requests(self, kind: str) -> list[web.Request]:
        return [r for r in self.seen if f"/{kind}/" in r.path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        for kind, handler in self.handlers.items():
            if f"/{kind}/" in request.path or request.path.endswith(f"/{kind}"):
                return await handler(request)
        return self.answer(request)

    def answer(self, request: web.Request) -> web.Response:
        if "/manifests/" in request.path:
            digest = "sha256:" + hashlib.sha256(self.manifest).hexdigest()
            headers = {"Docker-Content-Digest": digest}
            return web.Response(body=self.manifest, content_type=MANIFEST, headers=headers)
        for data in (self.config, self.packed):
            if request.path.endswith(hashlib.sha256(data).hexdigest()):
                return web.Response(body=data)
        return web.Response(status=404)
