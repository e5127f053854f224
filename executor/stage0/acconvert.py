"""A docker or OCI image's config as an appc image manifest: for tools and stages that know appc only. Pure.

The rules are docker2aci's, so that what was written for its images works: names, `volume-…` mount points, `80-tcp`
ports, `appc.io/docker/…` annotations. It knew no stop signal; that is an annotation here. Source: appc/docker2aci
`lib/internal/internal.go`.
"""

import re
from collections.abc import Iterable
from typing import Any

import orjson

from executor.stage0 import names
from executor.stage0.acmanifest import AC_VERSION, appc_arch, check_manifest, mount_name
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageBroken
from executor.stage0.manifest import host_platform

STOP_SIGNAL = "gantry.io/stop-signal"
_NOT_IDENTIFIER = re.compile(r"[^a-z0-9]*[^a-z0-9._~/-][^a-z0-9]*|[._~/-][._~/-]+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9.-]*")


def from_config(config: ImageConfig, reference: str, image_id: str, digest: str) -> dict[str, Any]:
    """A checked image manifest. reference: as it was fetched; digest: of its manifest.

    user may be a name or a number; without a group the group is called like the user. ImageBroken for what appc has no
    way to say.
    """
    parsed = names.parse(reference)
    tag = getattr(parsed, "tag", "") or "latest"
    user, _, group = config.user.partition(":")
    user = user or "0"
    app: dict[str, Any] = {
        "exec": [*config.entrypoint, *config.cmd],
        "user": user,
        "group": group or user,
        "workingDirectory": config.working_dir or "/",
        "environment": [{"name": _env(key), "value": value} for key, value in config.env.items()],
        "mountPoints": _mount_points(config.volumes),
        "ports": [_port(text) for text in config.ports],
        "userLabels": dict(config.labels),
    }
    notes = {
        "created": config.created,
        "appc.io/docker/originalname": reference,
        "appc.io/docker/registryurl": parsed.host if isinstance(parsed, names.Registry) else "",
        "appc.io/docker/repository": parsed.repository if isinstance(parsed, names.Registry) else "",
        "appc.io/docker/tag": tag,
        "appc.io/docker/imageid": image_id,
        "appc.io/docker/manifesthash": digest,
        "appc.io/docker/entrypoint": orjson.dumps(config.entrypoint).decode() if config.entrypoint else "",
        "appc.io/docker/cmd": orjson.dumps(config.cmd).decode() if config.cmd else "",
        STOP_SIGNAL: config.stop_signal,
    }
    labels = {
        "version": tag,
        "os": config.os,
        "arch": appc_arch(config.architecture or host_platform()[1]),
    }
    made = {
        "acKind": "ImageManifest",
        "acVersion": AC_VERSION,
        "name": identifier(_name(parsed)),
        "labels": [{"name": key, "value": value} for key, value in labels.items()],
        "app": {key: value for key, value in app.items() if value or key == "exec"},
        "annotations": [{"name": key, "value": value} for key, value in notes.items() if value],
    }
    check_manifest(made)
    return made


def identifier(text: str) -> str:
    """Any text as an AC identifier: lower case, one `-` for what cannot be in it."""
    made = _NOT_IDENTIFIER.sub(lambda found: "/" if set(found[0]) == {"/"} else "-", text.lower()).strip(
        "._~/-"
    )
    if not made:
        raise ImageBroken(f"{text[:100]!r} leaves nothing to call an appc image by")
    return made


def _name(parsed: names.Reference) -> str:
    match parsed:
        case names.Registry(host, repository):
            return f"{host}/{repository}"
        case names.Local(name):
            return f"localhost/{name}"
        case names.Layout(path) | names.Archive(_, path):
            return path
        case _:
            return str(parsed)


def _env(name: str) -> str:
    if not _ENV_NAME.fullmatch(name):
        raise ImageBroken(f"config: Env: {name[:100]!r} cannot be a variable of an appc image")
    return name


def _mount_points(volumes: Iterable[str]) -> list[dict[str, Any]]:
    """Names are unique: `/a-b` and `/a/b` become `volume-a-b` and `volume-a-b-2`."""
    found: dict[str, str] = {}
    for path in volumes:
        base = name = mount_name(path)
        number = 1
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found[name] = path
    return [{"name": name, "path": path} for name, path in found.items()]


def _port(text: str) -> dict[str, Any]:
    """`80/tcp`, `8000-8005/udp`, `53`."""
    numbers, _, protocol = text.partition("/")
    first, _, last = numbers.partition("-")
    protocol = protocol or "tcp"
    made: dict[str, Any] = {"name": f"{numbers}-{protocol}", "protocol": protocol, "port": int(first)}
    return made | ({"count": int(last) - int(first) + 1} if last else {})
