"""sd_notify(3): telling systemd (Type=notify) that a pod is ready, once its apps are.

    app ─READY=1─▶ a socket of its own, mounted in it ─▶ we, when all that tell have told ─READY=1─▶ our NOTIFY_SOCKET

Apps tell whose image has the annotation `appc.io/executor/supports-systemd-notify`, `true` (rkt
`Documentation/using-rkt-with-systemd.md`); the others are ready when they have been started. Of what an app says, READY
counts, and STATUS is handed on if it is the only one; nothing else of it reaches systemd.
"""

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

ANNOTATION: Final = "appc.io/executor/supports-systemd-notify"
_PLACE: Final = "/run/systemd/notify"
_VOLUME: Final = "gantry-notify-"
_DIRECTORY: Final = "notify"
_LONGEST: Final = 4096


def add(manifest: dict[str, Any], pod: Path, running: Path) -> None:
    """Put the sockets into the manifest of a pod whose directory is `pod`, and `running` when it runs."""
    for entry in manifest["apps"]:
        name = str(entry["name"])
        image = json.loads((pod / "appsinfo" / name / "manifest").read_bytes())
        notes = {note["name"]: note["value"] for note in image.get("annotations") or ()}
        if notes.get(ANNOTATION) != "true":
            continue
        place = str(running / _DIRECTORY / name)
        volume = {"name": _VOLUME + name, "kind": "host", "source": place, "gantry.io/datagram-socket": True}
        manifest["volumes"] = [*(manifest.get("volumes") or ()), volume]
        entry["mounts"] = [*(entry.get("mounts") or ()), {"volume": volume["name"], "path": _PLACE}]
        body = entry["app"]
        kept = [one for one in body.get("environment") or () if one["name"] != "NOTIFY_SOCKET"]
        body["environment"] = [*kept, {"name": "NOTIFY_SOCKET", "value": _PLACE}]


def tell(text: str) -> None:
    """systemd, if it wants to be told. Whoever does not listen misses it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(text.encode(), address)


class Listener:
    """The sockets of a pod's apps, made before the pod is."""

    def __init__(self, pod: Path, manifest: Mapping[str, Any]) -> None:
        volumes = [str(volume["name"]) for volume in manifest.get("volumes") or ()]
        names = [name.removeprefix(_VOLUME) for name in volumes if name.startswith(_VOLUME)]
        self._loop = asyncio.get_running_loop()
        self._waiting = set(names)
        self._only = len(names) == 1
        self._sockets: list[socket.socket] = []
        self._all = asyncio.Event()
        if not names:
            self._all.set()
            return
        (pod / _DIRECTORY).mkdir(mode=0o755)
        directory = os.open(pod / _DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                self._open(directory, name)
        finally:
            os.close(directory)

    def _open(self, directory: int, name: str) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sockets.append(sock)
        place = f"/proc/self/fd/{directory}/{name}"  # the path may be longer than an address can be
        sock.bind(place)
        os.chmod(place, 0o777)  # whoever the app is
        self._loop.add_reader(sock.fileno(), self._heard, sock, name)

    async def ready(self) -> None:
        """All have said READY=1."""
        await self._all.wait()

    def close(self) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def _heard(self, sock: socket.socket, name: str) -> None:
        try:
            lines = sock.recv(_LONGEST).decode(errors="replace").splitlines()
        except OSError:
            return
        if "READY=1" in lines:
            self._waiting.discard(name)
            if not self._waiting:
                self._all.set()
        status = [line for line in lines if line.startswith("STATUS=")]
        if status and self._only:
            tell(status[-1])
