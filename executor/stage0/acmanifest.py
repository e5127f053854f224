"""The appc image manifest: the spec's rules, and what it says about running the image.

Checked by the spec's words, stricter than appc's own code where that is known to be lax (adjacent separators in
names); the rules that pods share are in acrules.py. Sources: appc spec 0.8.11 `aci.md`; os and arch are demanded as rkt
does.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from executor.stage0 import acrules as rules
from executor.stage0 import manifest as m
from executor.stage0.build import Options
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageBroken

AC_VERSION = "0.8.11"
MAX_DEPENDENCIES = 64
_ARCHES = {
    "linux": (
        "amd64",
        "i386",
        "aarch64",
        "aarch64_be",
        "armv6l",
        "armv7l",
        "armv7b",
        "ppc64",
        "ppc64le",
        "s390x",
    ),
    "freebsd": ("amd64", "i386", "arm"),
    "darwin": ("x86_64", "i386"),
}
_FROM_GO = {"arm64": "aarch64", "386": "i386", "arm": "armv7l"}


def parse_manifest(data: bytes) -> dict[str, Any]:
    """A checked image manifest with the spec's spelling of its keys."""
    obj = rules.load(data)
    check_manifest(obj)
    return obj


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Every rule of the spec for an ImageManifest. ImageBroken names the field and the rule."""
    rules.header(manifest, "ImageManifest")
    rules.identifier(manifest.get("name"), "name")
    _check_labels(manifest)
    rules.annotations(manifest)
    for path in rules.array(manifest, "pathWhitelist"):
        if ".." in rules.absolute(path, "pathWhitelist").split("/"):
            rules.bad("pathWhitelist", f"{path[:100]!r} has '..' in it")
    dependencies = rules.objects(manifest, "dependencies")
    if len(dependencies) > MAX_DEPENDENCIES:
        rules.bad("dependencies", f"{len(dependencies)} of them (limit {MAX_DEPENDENCIES})")
    for entry in dependencies:
        name = rules.identifier(entry.get("imageName"), "dependencies: imageName")
        if entry.get("imageID") not in (None, ""):
            rules.image_id(entry["imageID"], f"dependencies: {name}: imageID")
        rules.labels(entry, f"dependencies: {name}: labels")
        if entry.get("size") is not None:
            rules.whole(entry["size"], f"dependencies: {name}: size", 0, 2**63 - 1)
    if manifest.get("app") is not None:
        rules.app(manifest["app"])


def _check_labels(manifest: Mapping[str, Any]) -> None:
    labels = rules.labels(manifest)
    system, arch = labels.get("os"), labels.get("arch")
    if system is None or arch is None:
        rules.bad("labels", f"missing {'os' if system is None else 'arch'} label in the image manifest")
    if system not in _ARCHES:
        rules.bad("labels", f"os {system[:40]!r} is not one of {', '.join(_ARCHES)}")
    if arch not in _ARCHES[system]:
        rules.bad("labels", f"arch {arch[:40]!r} is not one of {system}'s: {', '.join(_ARCHES[system])}")


def remarks(manifest: Mapping[str, Any]) -> str:
    """What the user should hear about a checked manifest, "" for nothing."""
    ignored = rules.unknown_isolators(manifest.get("app") or {})
    return f"isolators that are not known here are ignored: {', '.join(ignored)[:300]}" if ignored else ""


def image_config(manifest: Mapping[str, Any]) -> ImageConfig:
    """What a checked manifest says about running it; the whole `app` goes along (isolators, handlers, mount points)."""
    app: Mapping[str, Any] = manifest.get("app") or {}
    labels = {entry["name"]: entry["value"] for entry in manifest.get("labels") or []}
    group = app.get("group", "")
    return ImageConfig(
        entrypoint=tuple(app.get("exec") or ()),
        env={entry["name"]: entry["value"] for entry in app.get("environment") or []},
        user=f"{app['user']}:{group}" if app else "",
        working_dir=app.get("workingDirectory") or "",
        volumes=tuple(point["path"] for point in app.get("mountPoints") or []),
        ports=tuple(_ports(app.get("ports") or [])),
        labels={k: str(v) for k, v in (app.get("userLabels") or {}).items()},
        supplementary_gids=tuple(app.get("supplementaryGIDs") or ()),
        os=labels["os"],
        architecture=labels["arch"],
        created=next((a["value"] for a in manifest.get("annotations") or [] if a["name"] == "created"), ""),
        format="aci",
        app=app or None,
    )


def _ports(ports: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for entry in ports:
        last = entry["port"] + entry.get("count", 1) - 1
        yield f"{entry['port']}{f'-{last}' if last > entry['port'] else ''}/{entry['protocol']}"


def host_labels() -> dict[str, str]:
    """`os` and `arch` of this machine, in appc's words."""
    system, architecture = m.host_platform()
    return {"os": system, "arch": appc_arch(architecture)}


def check_host(config: ImageConfig) -> None:
    """The image's os and arch are this machine's, as rkt's label match demands."""
    system, architecture = m.host_platform()
    if (config.os, config.architecture) != (system, appc_arch(architecture)):
        raise ImageBroken(
            f"the image is for {config.os}/{config.architecture}, this machine is {system}/{appc_arch(architecture)}"
        )


# -- building


def manifest_for(name: str, options: Options) -> dict[str, Any]:
    """The image manifest of a build; checked like a foreign one. ImageBroken names the field."""
    user, _, group = options.user.partition(":")
    version = options.labels.get("version")
    labels = {
        **({"version": version} if version else {}),
        "os": "linux",
        "arch": appc_arch(options.architecture),
    }
    app: dict[str, Any] = {
        "exec": [*options.entrypoint, *options.cmd],
        "user": user or "0",
        "group": group or (user if user.isdigit() else "0"),
        "environment": _pairs(dict(item.split("=", 1) for item in options.env)),
        "workingDirectory": options.working_dir,
        "mountPoints": [{"name": mount_name(path), "path": path} for path in options.volumes],
        "ports": [_port(text) for text in options.ports],
        "userLabels": {k: v for k, v in options.labels.items() if k != "version"},
    }
    if options.stop_signal:
        raise ImageBroken("--stop-signal: appc images cannot say one")
    manifest = {
        "acKind": "ImageManifest",
        "acVersion": AC_VERSION,
        "name": name,
        "labels": _pairs(labels),
        "app": {key: value for key, value in app.items() if value or key == "exec"},
    }
    check_manifest(manifest)
    return manifest


def appc_arch(go: str) -> str:
    """A processor in appc's words, of Go's."""
    return _FROM_GO.get(go, go)


def _pairs(table: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": key, "value": value} for key, value in table.items()]


def mount_name(path: str) -> str:
    """docker2aci's rule: `/var/lib/db` → `volume-var-lib-db`."""
    return "volume-" + re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")


def _port(text: str) -> dict[str, Any]:
    number, _, protocol = text.partition("/")
    return {"name": f"{number}-{protocol or 'tcp'}", "protocol": protocol or "tcp", "port": int(number)}
