"""Pure: which parts of a pod's volumes its machine is given, and where its apps find them there.

What root of a machine can reach is what virtiofsd shows it, so that is as little as the apps mount: nothing of the
host's files that none of them does, and of a volume that all mount by sub paths only these. They are looked up on the
host when the pod starts, without leaving the volume (stage1, TakeVolume); a sub path below another one that is given,
when the app starts, in the machine.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from executor.kvm.guest.main import SHARE

DATAGRAMS: Final = "gantry.io/datagram-socket"
"""Of a volume: it is a socket on which the host hears what apps say (docs/stage1-interface.md)."""
_PLACE: Final = "/run/datagrams"  # executor/kvm/guest/datagrams.py
_SUB_PATH: Final = "gantry.io/sub-path"


@dataclass(frozen=True)
class Part:
    """name: of the guest's volume. sub_path: of the pod's `volume`, or "" for all of it. read_only: no app may write
    to it; then the machine cannot, whatever becomes of what is in it."""

    name: str
    volume: Mapping[str, Any]
    sub_path: str
    read_only: bool

    @property
    def place(self) -> str:
        """In the guest, and in what virtiofsd shows."""
        return f"{SHARE}/volumes/{self.name}"


def parts(pod: Mapping[str, Any]) -> list[Part]:
    """In the order of the pod's volumes. A name stands for the same part whatever else there is, or comes later."""
    found = []
    for volume in pod.get("volumes") or ():
        name = str(volume["name"])
        mounts = [mount for app in pod["apps"] for mount in _mounts(app) if mount["volume"] == name]
        if volume.get(DATAGRAMS):
            continue
        if volume["kind"] != "host":
            found.append(Part(name, volume, "", _only_read(mounts)))
            continue
        for path in _outermost({_sub_path(mount) for mount in mounts}):
            read_only = _only_read([mount for mount in mounts if _is_in(_sub_path(mount), path)])
            found.append(Part(_name(name, path, read_only=read_only), volume, path, read_only))
    return found


def _name(volume: str, path: str, *, read_only: bool) -> str:
    """No volume of a pod's own has a dot in its name."""
    digest = f".path-{hashlib.sha256(path.encode()).hexdigest()[:12]}" if path else ""
    return f"{volume}{digest}{'.read' if read_only else ''}"


def sockets(pod: Mapping[str, Any]) -> dict[str, str]:
    """The volumes that are sockets for datagrams, and where on the host they are."""
    return {
        str(volume["name"]): str(volume["source"])
        for volume in pod.get("volumes") or ()
        if volume.get(DATAGRAMS)
    }


def volumes_in_guest(pod: Mapping[str, Any], given: list[Part]) -> list[dict[str, Any]]:
    """All of the host, as it is seen there."""
    made = [
        {
            "name": part.name,
            "kind": "host",
            "source": part.place,
            "readOnly": bool(part.volume.get("readOnly", False)),
        }
        for part in given
    ]
    return made + [{"name": name, "kind": "host", "source": f"{_PLACE}/{name}"} for name in sockets(pod)]


def app_in_guest(app: Mapping[str, Any], given: list[Part]) -> dict[str, Any]:
    """With mounts of what is given, all of them named."""
    made = []
    for mount in _mounts(app):
        path = _sub_path(mount)
        for part in given:
            if part.volume["name"] == mount["volume"] and _is_in(path, part.sub_path):
                rest = path[len(part.sub_path) :].lstrip("/")
                mount = {**mount, "volume": part.name, _SUB_PATH: rest}
                break
        made.append(mount)
    return {**app, "mounts": made}


def _mounts(app: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Also those of mount points that take the volume of their own name (appc pods.md)."""
    points = {str(point["path"]): point for point in app["app"].get("mountPoints") or ()}
    mounts = list(app.get("mounts") or ())
    given = {str(mount["path"]) for mount in mounts}
    mounts += [{"volume": point["name"], "path": path} for path, point in points.items() if path not in given]
    for mount in mounts:
        point = points.get(str(mount["path"]), {})
        yield {**mount, "readOnly": bool(mount.get("readOnly") or point.get("readOnly"))}


def _sub_path(mount: Mapping[str, Any]) -> str:
    words = str(mount.get(_SUB_PATH) or "").split("/")
    return "/".join(word for word in words if word not in ("", "."))


def _is_in(path: str, other: str) -> bool:
    """By their names; those with `..` are in none but the whole volume."""
    return not other or path == other or (path.startswith(f"{other}/") and ".." not in path.split("/"))


def _outermost(paths: set[str]) -> list[str]:
    return sorted(path for path in paths if not any(_is_in(path, other) for other in paths - {path}))


def _only_read(mounts: list[dict[str, Any]]) -> bool:
    return all(mount["readOnly"] for mount in mounts)
