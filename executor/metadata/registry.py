"""rkt's metadata service: a daemon that pods are registered with over a unix socket (`gantry rkt run --mds-register`).

    PUT    /pods/UUID?token=TOKEN     a PodManifest
    PUT    /pods/UUID/APP             an ImageManifest
    DELETE /pods/UUID

as rkt-1.30 rkt/metadata_service.go has it, so that either side may be rkt's. Root alone may register. Answers to pods
come from the same code as the executor's; where it listens for them is told with every registration.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote
from uuid import UUID

from aiohttp import web

from executor.metadata.answers import Answers
from executor.metadata.client import ADDRESS_HEADER, PORT_HEADER, SOCKET
from executor.metadata.doors import BACKLOG, CONNECTIONS, CROWD, RATE, Door, Pace
from executor.metadata.facts import Facts
from executor.metadata.facts import Pod as Asking
from executor.metadata.http import Http
from executor.metadata.keys import Keys

log = logging.getLogger(__name__)

PUBLIC_CONNECTIONS: Final = 256
MANIFEST_LIMIT: Final = 4 << 20
_APP: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,200}")
_LISTEN_FD: Final = 3


@dataclass
class _Pod:
    digest: bytes
    manifest: dict[str, Any]
    images: dict[str, dict[str, Any]] = field(default_factory=dict)


class Registry:
    """The pods that are registered."""

    def __init__(self) -> None:
        self._pods: dict[UUID, _Pod] = {}
        self._uuids: dict[bytes, UUID] = {}

    def add_pod(self, uuid: UUID, token: str, manifest: dict[str, Any]) -> None:
        """Register a pod, or once more, under another token. Raises ValueError when the token is another pod's."""
        digest = _digest(token)
        if self._uuids.get(digest, uuid) != uuid:
            raise ValueError("this token is another pod's")
        self.remove(uuid)
        self._pods[uuid] = _Pod(digest, manifest)
        self._uuids[digest] = uuid

    def add_app(self, uuid: UUID, app: str, image: dict[str, Any]) -> None:
        """Raises KeyError when the pod is not registered."""
        self._pods[uuid].images[app] = image

    def remove(self, uuid: UUID) -> bool:
        """False when it was not registered."""
        pod = self._pods.pop(uuid, None)
        if pod is not None:
            del self._uuids[pod.digest]
        return pod is not None

    def admit(self, token: str) -> Asking | None:
        """See `answers.Admit`."""
        uuid = self._uuids.get(_digest(token))
        if uuid is None:
            return None
        pod = self._pods[uuid]

        async def facts() -> Facts:
            return Facts(pod.manifest, pod.images)

        return Asking(uuid, facts)


class Daemon:
    """Both sides of it: registrations on a unix socket, answers on TCP."""

    def __init__(self, keys: Keys) -> None:
        self.registry = Registry()
        self._public = Http(Answers(self.registry.admit, keys, strict=False))
        self._private = Http(_Registrations(self.registry, self._place), body_limit=MANIFEST_LIMIT)
        self._doors: list[Door] = []

    def _place(self) -> tuple[str, int]:
        return self._doors[0].address

    def listen(self, registrations: socket.socket, public: socket.socket) -> None:
        """Serve on these two listening sockets, which are ours from here on."""
        pace = Pace(100 * RATE, 100 * CROWD)  # there is nothing here to keep from but answering
        self._doors.append(Door(public, self._public.take, PUBLIC_CONNECTIONS, pace))
        self._doors.append(Door(registrations, self._take_local, CONNECTIONS, pace))

    def _take_local(self, connection: socket.socket, ended: Callable[[], None]) -> None:
        if _is_root(connection):
            self._private.take(connection, ended)
        else:
            log.warning("metadata: somebody who is not root tried to register a pod")
            connection.close()
            ended()

    async def close(self) -> None:
        """Stop, and forget all pods."""
        for door in self._doors:
            door.close()
        await self._public.close()
        await self._private.close()


class _Registrations:
    """The API on the unix socket."""

    def __init__(self, registry: Registry, place: Callable[[], tuple[str, int]]) -> None:
        self._registry, self._place = registry, place

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            status, text = await self._do(request)
        except web.HTTPRequestEntityTooLarge:
            status, text = 413, f"the manifest is larger than {MANIFEST_LIMIT} bytes"
        except ValueError as error:
            status, text = 400, str(error)
        if status != 200:
            log.warning("metadata: %s %s: %s", request.method, request.path, text)
        address, port = self._place()
        headers = {PORT_HEADER: str(port), ADDRESS_HEADER: address}
        answer = web.Response(status=status, text=text and f"{text}\n", headers=headers)
        answer.force_close()
        return answer

    async def _do(self, request: web.BaseRequest) -> tuple[int, str]:
        """The status and what is wrong."""
        place = [unquote(part) for part in request.rel_url.raw_path.split("/")[1:]]
        if len(place) not in (2, 3) or place[0] != "pods":
            return 404, "there is nothing here"
        if request.method not in ("PUT", "DELETE") or (len(place) == 3 and request.method == "DELETE"):
            return 405, "pods are PUT and DELETEd, apps PUT"
        try:
            uuid = UUID(place[1])
        except ValueError:
            return 400, f"UUID is missing or malformed: {place[1][:100]!r}"
        if request.method == "DELETE":
            return (200, "") if self._registry.remove(uuid) else (404, "pod not found")
        if len(place) == 2:
            token = request.query.get("token", "")
            if not _TOKEN.fullmatch(token):
                return 400, "token missing, or not 16 to 200 letters and digits"
            self._registry.add_pod(uuid, token, await _body(request, "PodManifest"))
            return 200, ""
        if not _APP.fullmatch(place[2]):
            return 400, f"{place[2][:100]!r} is not an AC Name"
        image = await _body(request, "ImageManifest")
        try:
            self._registry.add_app(uuid, place[2], image)
        except KeyError:
            return 404, "Pod with given UUID not found"
        return 200, ""


async def _body(request: web.BaseRequest, kind: str) -> dict[str, Any]:
    try:
        found = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"JSON-decoding failed: {error}") from None
    if not isinstance(found, dict) or found.get("acKind") != kind:
        raise ValueError(f"JSON-decoding failed: this is no {kind}")
    return found


def _is_root(connection: socket.socket) -> bool:
    """Whether root, or whoever we are, has connected (unix(7), SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1]) in (0, os.geteuid())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def registration_socket(path: Path = SOCKET) -> socket.socket:
    """The listening socket for registrations: systemd's (LISTEN_FDS), or one of our own that only root may use.

    One that nobody listens on any more is replaced. Raises OSError, ValueError.
    """
    given = os.environ.get("LISTEN_FDS", "")
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"LISTEN_FDS {given!r}: expected at least one socket")
        return socket.socket(fileno=os.dup(_LISTEN_FD))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise ValueError(f"{path}: another metadata service listens there")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(mask)
    return listening


async def serve(keys: Keys, port: int, *, host: str = "127.0.0.1", path: Path = SOCKET) -> None:
    """Be rkt's metadata service, until cancelled: `gantry rkt metadata-service`. Raises OSError, ValueError."""
    registrations = registration_socket(path)
    daemon = Daemon(keys)
    try:
        public = socket.create_server((host, port), backlog=BACKLOG)
        daemon.listen(registrations, public)
        log.info("metadata: pods ask on %s:%d", *public.getsockname()[:2])
        await asyncio.get_running_loop().create_future()
    finally:
        await daemon.close()
        registrations.close()
        if not os.environ.get("LISTEN_FDS"):
            path.unlink(missing_ok=True)
