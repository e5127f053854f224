"""The service in the executor: every pod's own, reachable in its network and nowhere else.

    a network of its own       127.0.0.1:18112 there, made by us before any app of the pod runs, answered by us
    the host's network, fly    one port on the host's loopback for all of them; the token in the URL tells them apart
    a virtual machine          127.0.0.1:18112 in there, whose connections the sandbox carries here (`doors.Relaying`)
    stage1s of others          as the first two; the network is there when `run` has made it (`doors.Late`)

Which it is, a pod's programs see in AC_METADATA_URL alone. A socket goes with its pod, and all with the executor.
"""

import asyncio
import errno
import hashlib
import hmac
import json
import logging
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from executor.contract.interface import pod_uuid
from executor.metadata.answers import Admit, Answers
from executor.metadata.doors import (
    BACKLOG,
    CROWD,
    PORT,
    RATE,
    URL_FILE,
    Door,
    HasNetwork,
    Late,
    Pace,
    Relaying,
    listen,
    write_url,
)
from executor.metadata.facts import Facts, Pod, of_kubernetes, plain
from executor.metadata.http import Http
from executor.metadata.keys import Keys
from executor.pods import netns
from executor.stage1.manifest import FLAVORS

log = logging.getLogger(__name__)

KVM: Final = "kvm"
HOST_CONNECTIONS: Final = 64
TOKEN_BYTES: Final = 24

ImageManifest = Callable[[str], Mapping[str, Any]]
"""The appc image manifest of an image id. Blocking; raises OSError, ValueError."""


@dataclass
class _Served:
    url: str
    digest: bytes = b""
    door: Door | None = None
    http: "_Later | None" = None


class _Later:
    """A pod's own server, made when the first program asks: most never do, and starts are counted in microseconds."""

    def __init__(self, admit: Admit, keys: Keys) -> None:
        self._admit, self._keys = admit, keys
        self._http: Http | None = None
        self._pace: Pace | None = None

    def made(self) -> Http:
        if self._http is None:
            self._http = Http(Answers(self._admit, self._keys))
        return self._http

    def take(self, connection: socket.socket, ended: Callable[[], None]) -> None:
        self.made().take(connection, ended)

    def end(self) -> socket.socket:
        """For `Relaying`: a machine is told no rather than to wait."""
        if self._pace is None:
            self._pace = Pace()
        if self._pace.wait() > 0:
            raise BlockingIOError(errno.EAGAIN, "more connections than are answered")
        self._pace.count()
        return self.made().end()

    def drop(self) -> None:
        if self._http is not None:
            self._http.drop()

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()


class Service:
    """The metadata of all pods of this executor. Pods are told apart by their directories' names."""

    def __init__(self, keys: Keys, image: ImageManifest) -> None:
        self._keys, self._image = keys, image
        self._served: dict[str, _Served] = {}
        self._by_digest: dict[bytes, Pod] = {}
        self._host: Door | None = None
        self._host_http: Http | None = None

    def prepare(self, path: Path, pod: Mapping[str, Any], flavor: str) -> None:
        """Before a pod (v1) is run: make its URL. Raises OSError."""
        token = secrets.token_hex(TOKEN_BYTES)
        digest = hashlib.sha256(token.encode()).digest()
        asking = self._asking(path, pod, ours=flavor in (*FLAVORS, KVM))
        if pod["spec"].get("hostNetwork") or flavor == "fly":
            host, port = self._host_door().address
            self._by_digest[digest] = asking
            served = _Served(f"http://{host}:{port}/{token}", digest)
        else:
            http = _Later(lambda given: asking if _same(given, digest) else None, self._keys)
            served = _Served(f"http://127.0.0.1:{PORT}/{token}", http=http)
        self.close(path.name)
        self._served[path.name] = served
        write_url(path, served.url)

    async def open(self, path: Path, sandbox: HasNetwork) -> None:
        """The pod's sandbox is there: listen in its network. Raises LaunchError."""
        (path / URL_FILE).unlink(missing_ok=True)
        served = self._served.get(path.name)
        if served is None or served.http is None:
            return
        if isinstance(sandbox, Relaying):
            await sandbox.relay(PORT, served.http.end)
        elif isinstance(sandbox, Late):
            sandbox.when_networked(lambda pid: self._open_late(path.name, served, pid))
        else:
            served.door = Door(listen(sandbox.pid), served.http.take)

    def _open_late(self, name: str, served: _Served, pid: int) -> None:
        """In the network that the stage1 of somebody else has made for this run of a pod. Raises LaunchError."""
        if served.door is not None:
            served.door.close()
            served.door = None
        if served.http is None or self._served.get(name) is not served:
            return
        if netns.is_ours(pid):
            log.warning(
                "metadata: pod %s is in the node's network, which it was not to be in: not there", name
            )
            return
        served.door = Door(listen(pid), served.http.take)

    def close(self, name: str) -> None:
        """The pod has ended, or did not even start."""
        served = self._served.pop(name, None)
        if served is not None:
            self._by_digest.pop(served.digest, None)
            if served.door is not None:
                served.door.close()
            if served.http is not None:
                served.http.drop()

    async def shut(self) -> None:
        """The executor ends."""
        for name, served in list(self._served.items()):
            self.close(name)
            if served.http is not None:
                await served.http.close()
        if self._host is not None:
            self._host.close()
        if self._host_http is not None:
            await self._host_http.close()

    def _host_door(self) -> Door:
        if self._host is None:
            listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
            self._host_http = Http(Answers(self._whose, self._keys))
            self._host = Door(listening, self._host_http.take, HOST_CONNECTIONS, Pace(4 * RATE, 4 * CROWD))
            log.info("metadata for pods on the host's network: 127.0.0.1:%d", self._host.address[1])
        return self._host

    def _whose(self, token: str) -> Pod | None:
        """By the token's digest: how long that takes says nothing about the token."""
        return self._by_digest.get(hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest())

    def _asking(self, path: Path, pod: Mapping[str, Any], *, ours: bool) -> Pod:
        """A pod's facts are looked up once, if anybody wants to know: they do not change while it runs. ours: its
        stage1 is; else its manifest will be rewritten, and its images' ids with it. Raises OSError."""
        more, known = of_kubernetes(pod), list[Facts]()
        before = {} if ours else _image_ids(path)

        def look_up() -> Facts:
            manifest = json.loads((path / "pod").read_bytes())
            ids = before or _image_ids(path)
            images = {name: self._image(image_id) for name, image_id in ids.items()}
            return Facts(plain(manifest, more), images)

        async def facts() -> Facts:
            if not known:
                known.append(await asyncio.to_thread(look_up))
            return known[0]

        return Pod(UUID(pod_uuid(str(pod["metadata"]["uid"]))), facts)


def _image_ids(path: Path) -> dict[str, str]:
    """Of the apps of a pod directory, by name."""
    manifest = json.loads((path / "pod").read_bytes())
    return {str(entry["name"]): str(entry["image"]["id"]) for entry in manifest.get("apps") or ()}


def _same(token: str, digest: bytes) -> bool:
    return hmac.compare_digest(hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest(), digest)
