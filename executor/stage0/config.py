"""What an image says about running it: one `ImageConfig` for OCI, Docker and appc images.

It is the image's word only; what the pod overrides is the pod room's business. Sources: OCI image-spec `config.md`,
Docker image spec v1.2, appc `spec/aci.md`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from executor.stage0.errors import ImageBroken

_PORT = re.compile(r"\d{1,5}(-\d{1,5})?(/(tcp|udp|sctp))?")


@dataclass(frozen=True)
class ImageConfig:
    """How the image wants to be run.

    user is `user[:group]`, names or numbers, "" for root (appc: either part may be a `/path`, meaning the owner of that
    file); ports are `80/tcp`; stop_signal is as written ("SIGTERM", "15") or "" for the default; app is the appc
    image manifest's `app` section as it is (isolators, event handlers, mount points), else None.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    supplementary_gids: tuple[int, ...] = ()
    os: str = "linux"
    architecture: str = ""
    created: str = ""
    format: Literal["oci", "docker", "aci"] = "oci"
    app: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The form kept in the store's image record."""
        return {
            "entrypoint": list(self.entrypoint), "cmd": list(self.cmd), "env": dict(self.env), "user": self.user,
            "workingDir": self.working_dir, "stopSignal": self.stop_signal, "volumes": list(self.volumes),
            "ports": list(self.ports), "labels": dict(self.labels), "supplementaryGids": list(self.supplementary_gids),
            "os": self.os, "architecture": self.architecture, "created": self.created, "format": self.format,
            "app": None if self.app is None else dict(self.app),
        }  # fmt: skip

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "ImageConfig":
        """Read back what `to_json` wrote. KeyError when it is something else."""
        return cls(
            entrypoint=tuple(obj["entrypoint"]), cmd=tuple(obj["cmd"]), env=dict(obj["env"]), user=obj["user"],
            working_dir=obj["workingDir"], stop_signal=obj["stopSignal"], volumes=tuple(obj["volumes"]),
            ports=tuple(obj["ports"]), labels=dict(obj["labels"]),
            supplementary_gids=tuple(obj["supplementaryGids"]), os=obj["os"], architecture=obj["architecture"],
            created=obj["created"], format=obj["format"], app=obj["app"],
        )  # fmt: skip


def from_oci(obj: object, *, kind: Literal["oci", "docker"] = "oci") -> ImageConfig:
    """The config blob of an OCI or Docker image. ImageBroken when a field has another shape than its spec says."""
    document = _mapping(obj, "config")
    run = _mapping(document.get("config"), "config.config")
    env = _environment(_strings(run.get("Env"), "Env"))
    ports = tuple(sorted(_mapping(run.get("ExposedPorts"), "ExposedPorts")))
    for port in ports:
        if not _PORT.fullmatch(port):
            raise ImageBroken(f"config: ExposedPorts: {port!r} is not PORT/PROTOCOL")
    working_dir = _string(run.get("WorkingDir"), "WorkingDir")
    if working_dir and not working_dir.startswith("/"):
        working_dir = "/" + working_dir  # Docker resolves it against the root
    return ImageConfig(
        entrypoint=_strings(run.get("Entrypoint"), "Entrypoint"),
        cmd=_strings(run.get("Cmd"), "Cmd"),
        env=env,
        user=_string(run.get("User"), "User"),
        working_dir=working_dir,
        stop_signal=_string(run.get("StopSignal"), "StopSignal"),
        volumes=tuple(sorted(_mapping(run.get("Volumes"), "Volumes"))),
        ports=ports,
        labels=_string_map(run.get("Labels"), "Labels"),
        os=_string(document.get("os"), "os") or "linux",
        architecture=_string(document.get("architecture"), "architecture"),
        created=_string(document.get("created"), "created"),
        format=kind,
    )


def diff_ids(obj: object) -> tuple[str, ...]:
    """`rootfs.diff_ids` of a config blob, base layer first."""
    rootfs = _mapping(_mapping(obj, "config").get("rootfs"), "rootfs")
    if rootfs.get("type", "layers") != "layers":
        raise ImageBroken(f"config: rootfs.type is {rootfs.get('type')!r}, only 'layers' is defined")
    return _strings(rootfs.get("diff_ids"), "rootfs.diff_ids")


def _environment(items: tuple[str, ...]) -> dict[str, str]:
    env: dict[str, str] = {}
    for item in items:
        name, _, value = item.partition("=")
        if not name or "\0" in item:
            raise ImageBroken(f"config: Env: {item!r} is not NAME=VALUE")
        env[name] = value
    return env


def _mapping(value: object, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ImageBroken(f"config: {where} is not an object")
    return value


def _string(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageBroken(f"config: {where} is not a string")
    return value


def _strings(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and "\0" not in v for v in value):
        raise ImageBroken(f"config: {where} is not a list of strings")
    return tuple(value)


def _string_map(value: object, where: str) -> dict[str, str]:
    table = _mapping(value, where)
    if not all(isinstance(v, str) for v in table.values()):
        raise ImageBroken(f"config: {where} is not a map of strings")
    return table
