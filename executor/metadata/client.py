"""The side of `gantry rkt run --mds-register`: registers a pod with the metadata service of this machine, and brings
that into the pod's network, where it listens for the pod's programs and carries their connections there.

Used so: `register` when the pod directory is complete and not yet run; `open` when its sandbox is there; `close` at its
end. What was killed meanwhile is unregistered when its directory is collected (`forget`).
"""

import asyncio
import json
import logging
import secrets
import socket
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple

from executor.metadata.doors import PORT, URL_FILE, Door, HasNetwork, Relaying, listen, write_url
from executor.metadata.facts import plain

log = logging.getLogger(__name__)

REGISTERED: Final = "mds-registered"
"""rkt's name (stage0/registration.go) of an empty file in directories of pods that are registered."""
SOCKET: Final = Path("/run/rkt/metadata-svc.sock")
PORT_HEADER: Final = "Metadata-Port"
ADDRESS_HEADER: Final = "Metadata-Address"
"""Of the answer to a registration: where the service listens for pods. rkt's says neither, and is where rkt's is."""
EVERYWHERE: Final = "0.0.0.0"
SECONDS: Final = 10.0
TOKEN_BYTES: Final = 16
TRIES: Final = 3
PAUSE: Final = 1.0
"""Seconds; both as in rkt."""
_PIECE: Final = 64 << 10
_PATIENCE: Final = 5.0


class MetadataError(Exception):
    """The metadata service cannot be had; the message says what to do."""


class Registration:
    """One pod that is registered."""

    def __init__(self, directory: Path, place: "Place", token: str, path: Path) -> None:
        self._directory, self.place, self.token, self._path = directory, place, token, path
        self._door: Door | None = None
        self._own_network = True
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def register(
        cls, directory: Path, uuid: str, *, host_network: bool, path: Path = SOCKET
    ) -> "Registration":
        """Register a pod directory and write its URL there, for stage1. Blocking. Raises MetadataError, OSError."""
        made = cls.announce(directory, uuid, path=path)
        made._own_network = not host_network
        where = f"127.0.0.1:{PORT}" if made._own_network else f"{made.place.local}:{made.place.port}"
        try:
            write_url(directory, f"http://{where}/{made.token}")
        except BaseException:
            forget(directory, uuid, path)
            raise
        return made

    @classmethod
    def announce(cls, directory: Path, uuid: str, *, path: Path = SOCKET) -> "Registration":
        """Register a pod directory, of a pod that reaches the service by itself: a stage1 of somebody else's makes the
        URL, from the token. Blocking. Raises MetadataError, OSError."""
        manifest = json.loads((directory / "pod").read_bytes())
        token = secrets.token_hex(TOKEN_BYTES)
        body = json.dumps(plain(manifest)).encode()
        place = _ask(path, "PUT", f"/pods/{uuid}?token={token}", body, tries=TRIES)
        (directory / REGISTERED).touch()
        try:
            for entry in manifest["apps"]:
                name = entry["name"]
                image = (directory / "appsinfo" / name / "manifest").read_bytes()
                _ask(path, "PUT", f"/pods/{uuid}/{name}", image)
        except BaseException:
            forget(directory, uuid, path)
            raise
        made = cls(directory, place, token, path)
        made._own_network = False
        return made

    async def open(self, sandbox: HasNetwork) -> None:
        """Listen in the pod's network, if that is its own. Raises LaunchError."""
        (self._directory / URL_FILE).unlink(missing_ok=True)
        if not self._own_network:
            return
        if isinstance(sandbox, Relaying):
            await sandbox.relay(PORT, self._end)
        else:
            self._door = Door(listen(sandbox.pid), self._take)

    async def close(self, uuid: str) -> None:
        """The pod has ended: unregister it."""
        if self._door is not None:
            self._door.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.to_thread(forget, self._directory, uuid, self._path)

    def _end(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._take(ours, lambda: None)
        return theirs

    def _take(self, connection: socket.socket, ended: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(connection))
        self._tasks.add(task)

        def done(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            ended()

        task.add_done_callback(done)

    async def _carry(self, connection: socket.socket) -> None:
        """Between a connection of the pod's and one to the service."""
        loop = asyncio.get_running_loop()
        with connection, socket.socket() as service:
            service.setblocking(False)
            try:
                async with asyncio.timeout(SECONDS):
                    await loop.sock_connect(service, (self.place.local, self.place.port))
                    await asyncio.gather(_copy(connection, service), _copy(service, connection))
            except (OSError, TimeoutError) as error:
                log.debug("metadata: a connection of a pod: %s", error)


async def _copy(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _PIECE):
        await loop.sock_sendall(target, data)
    target.shutdown(socket.SHUT_WR)


def reachable(path: Path = SOCKET) -> None:
    """Raises MetadataError unless a metadata service listens there, or soon does. Blocking."""
    for left in reversed(range(TRIES)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError as error:
                if not left:
                    raise MetadataError(_unreachable(path, error)) from None
            else:
                return
        time.sleep(PAUSE)


def forget(directory: Path, uuid: str, path: Path = SOCKET) -> None:
    """Unregister a pod, if it is registered. A service that is gone has forgotten it already."""
    try:
        (directory / REGISTERED).unlink()
    except FileNotFoundError:
        return
    try:
        _ask(path, "DELETE", f"/pods/{uuid}")
    except MetadataError as error:
        log.debug("%s", error)


class Place(NamedTuple):
    """Where a service answers pods."""

    address: str
    port: int

    @property
    def local(self) -> str:
        """The address for whoever is on this machine's network."""
        return "127.0.0.1" if self.address == EVERYWHERE else self.address


def _ask(path: Path, method: str, place: str, body: bytes | None = None, *, tries: int = 1) -> Place:
    """One request to the service; returns where it answers pods. Raises MetadataError.

    tries: for a service that has only just been started.
    """
    while True:
        tries -= 1
        try:
            return _ask_once(path, method, place, body)
        except ConnectionError as error:
            if not tries:
                raise MetadataError(str(error)) from None
            time.sleep(PAUSE)


def _ask_once(path: Path, method: str, place: str, body: bytes | None) -> Place:
    connection = _Local(path)
    try:
        connection.request(method, place, body)
        answer = connection.getresponse()
        text = answer.read(1000).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        raise ConnectionError(_unreachable(path, error)) from None
    finally:
        connection.close()
    if answer.status != 200:
        shown = place.partition("?")[0]
        raise MetadataError(f"metadata service: {method} {shown}: {answer.status} {text}")
    address = answer.headers.get(ADDRESS_HEADER) or EVERYWHERE
    return Place(address, int(answer.headers.get(PORT_HEADER) or PORT))


def _unreachable(path: Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return (
        f"could not reach the metadata service on {path}: {why}; start one (gantry rkt metadata-service) "
        "or leave --mds-register out"
    )


class _Local(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("unixsock", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
