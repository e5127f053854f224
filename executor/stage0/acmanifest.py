"""The appc image manifest: the spec's rules, and what it says about running the image.

Checked by the spec's words, stricter than appc's own code where that is known to be lax (adjacent separators in
names). As in Go's JSON, keys match without regard to case and unknown keys are ignored. Sources: appc spec 0.8.11
`aci.md`, `types.md`, `ace.md`; os and arch are demanded as rkt does.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import orjson

from executor.stage0 import manifest as m
from executor.stage0.build import Options
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageBroken

AC_VERSION = "0.8.11"
_IDENTIFIER = re.compile(r"[a-z0-9]+([-._~/][a-z0-9]+)*")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9.-]*")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
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
_KEYS = (
    "acKind", "acVersion", "name", "labels", "app", "dependencies", "pathWhitelist", "annotations", "value",
    "exec", "user", "group", "supplementaryGIDs", "eventHandlers", "workingDirectory", "environment", "isolators",
    "mountPoints", "ports", "userAnnotations", "userLabels", "path", "readOnly", "protocol", "port", "count",
    "socketActivated", "imageName", "imageID", "size",
)  # fmt: skip
_CANONICAL = {key.lower(): key for key in _KEYS}


def parse_manifest(data: bytes) -> dict[str, Any]:
    """A checked image manifest with the spec's spelling of its keys."""
    try:
        obj = _canonical(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise ImageBroken(f"manifest: not JSON: {error}") from None
    if not isinstance(obj, dict):
        raise ImageBroken("manifest: not a JSON object")
    check_manifest(obj)
    return obj


def _canonical(value: Any) -> Any:
    """Keys of the schema in the spec's spelling, whatever case they have; the maps of free keys stay as they are."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        name = _CANONICAL.get(key.lower(), key)
        result[name] = item if name in {"value", "userAnnotations", "userLabels"} else _canonical(item)
    return result


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Every rule of the spec for an ImageManifest. ImageBroken names the field and the rule."""
    if manifest.get("acKind") != "ImageManifest":
        _bad("acKind", f"{manifest.get('acKind')!r} is not 'ImageManifest'")
    version = manifest.get("acVersion")
    if not isinstance(version, str) or not _VERSION.fullmatch(version) or version == "0.0.0":
        _bad("acVersion", f"{version!r} is not a semantic version")
    _identifier(manifest.get("name"), "name")
    _check_labels(manifest)
    for entry in _named(manifest, "annotations"):
        _identifier(entry["name"], "annotations: name")
        if not isinstance(entry.get("value"), str):
            _bad("annotations", f"{entry['name']!r} has no value")
    whitelist = _list(manifest, "pathWhitelist")
    if not all(isinstance(path, str) and path.startswith("/") for path in whitelist):
        _bad("pathWhitelist", "not a list of absolute paths")
    for entry in _objects(manifest, "dependencies"):
        _identifier(entry.get("imageName"), "dependencies: imageName")
    if manifest.get("app") is not None:
        if not isinstance(manifest["app"], dict):
            _bad("app", "not an object")
        _check_app(manifest["app"])


def _check_labels(manifest: Mapping[str, Any]) -> None:
    labels: dict[str, str] = {}
    for entry in _named(manifest, "labels"):
        _identifier(entry["name"], "labels: name")
        if not isinstance(entry.get("value"), str):
            _bad("labels", f"{entry['name']!r} has no value")
        labels[entry["name"]] = entry["value"]
    if "name" in labels:
        _bad("labels", "'name' is forbidden")
    system, arch = labels.get("os"), labels.get("arch")
    if system is None or arch is None:
        _bad("labels", "os and arch are required")
    if system not in _ARCHES:
        _bad("labels", f"os {system!r} is not one of {', '.join(_ARCHES)}")
    if arch not in _ARCHES[str(system)]:
        _bad("labels", f"arch {arch!r} is not one of {system}'s: {', '.join(_ARCHES[str(system)])}")


def _check_app(app: Mapping[str, Any]) -> None:
    if not all(isinstance(word, str) for word in _list(app, "exec", "app.exec")):
        _bad("app.exec", "not a list of strings")
    for key in ("user", "group"):
        if not isinstance(app.get(key), str) or not app[key]:
            _bad(f"app.{key}", "is required")
    for gid in _list(app, "supplementaryGIDs", "app.supplementaryGIDs"):
        if not isinstance(gid, int) or isinstance(gid, bool) or not 0 <= gid < 2**32:
            _bad("app.supplementaryGIDs", f"{gid!r} is not a group number")
    directory = app.get("workingDirectory") or ""
    if not isinstance(directory, str) or (directory and not directory.startswith("/")):
        _bad("app.workingDirectory", f"{directory!r} is not an absolute path")
    _check_entries(app)


def _check_entries(app: Mapping[str, Any]) -> None:
    for entry in _named(app, "environment", "app.environment"):
        if not _ENV_NAME.fullmatch(entry["name"]) or not isinstance(entry.get("value"), str):
            _bad("app.environment", f"{entry['name']!r} is not a variable with a value")
    for entry in _named(app, "eventHandlers", "app.eventHandlers"):
        if entry["name"] not in {"pre-start", "post-stop"}:
            _bad("app.eventHandlers", f"{entry['name']!r} is neither pre-start nor post-stop")
    for entry in _named(app, "mountPoints", "app.mountPoints"):
        _ac_name(entry["name"], "app.mountPoints: name")
        if not isinstance(entry.get("path"), str) or not entry["path"].startswith("/"):
            _bad("app.mountPoints", f"{entry['name']!r} has no absolute path")
    for entry in _named(app, "ports", "app.ports"):
        _check_port(entry)
    for entry in _objects(app, "isolators", "app.isolators"):
        _identifier(entry.get("name"), "app.isolators: name")


def _check_port(entry: Mapping[str, Any]) -> None:
    _ac_name(entry["name"], "app.ports: name")
    port, count = entry.get("port"), entry.get("count", 1)
    if not isinstance(entry.get("protocol"), str) or not entry["protocol"]:
        _bad("app.ports", f"{entry['name']!r} has no protocol")
    if (
        not isinstance(port, int)
        or not isinstance(count, int)
        or not (1 <= port <= 65535 and 1 <= count <= 65536 - port)
    ):
        _bad("app.ports", f"{entry['name']!r}: port {port!r}, count {count!r} is no range of ports")


def _bad(field: str, what: str) -> NoReturn:
    raise ImageBroken(f"manifest: {field}: {what}")


def _identifier(value: object, field: str) -> None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value) or len(value) > 1024:
        _bad(
            field, f"{str(value)[:100]!r} is not an AC identifier (lower case, digits, single -._~/ between)"
        )


def _ac_name(value: object, field: str) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > 1024:
        _bad(field, f"{str(value)[:100]!r} is not an AC name (lower case, digits, single - between)")


def _list(obj: Mapping[str, Any], key: str, field: str = "") -> list[Any]:
    value = obj.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ImageBroken(f"manifest: {field or key}: not a list")
    return value


def _objects(obj: Mapping[str, Any], key: str, field: str = "") -> list[dict[str, Any]]:
    items = _list(obj, key, field)
    if not all(isinstance(item, dict) for item in items):
        _bad(field or key, "not a list of objects")
    return items


def _named(obj: Mapping[str, Any], key: str, field: str = "") -> list[dict[str, Any]]:
    """A list of {name, …} with unique names."""
    items = _objects(obj, key, field)
    seen: set[str] = set()
    for item in items:
        name = item.get("name")
        if not isinstance(name, str) or not name:
            raise ImageBroken(f"manifest: {field or key}: an entry without a name")
        if name in seen:
            _bad(field or key, f"{name!r} is there twice")
        seen.add(name)
    return items


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
    return {"os": system, "arch": _arch(architecture)}


def check_host(config: ImageConfig) -> None:
    """The image's os and arch are this machine's, as rkt's label match demands."""
    system, architecture = m.host_platform()
    if (config.os, config.architecture) != (system, _arch(architecture)):
        raise ImageBroken(
            f"the image is for {config.os}/{config.architecture}, this machine is {system}/{_arch(architecture)}"
        )


# -- building


def manifest_for(name: str, options: Options) -> dict[str, Any]:
    """The image manifest of a build; checked like a foreign one. ImageBroken names the field."""
    user, _, group = options.user.partition(":")
    version = options.labels.get("version")
    labels = {**({"version": version} if version else {}), "os": "linux", "arch": _arch(options.architecture)}
    app: dict[str, Any] = {
        "exec": [*options.entrypoint, *options.cmd],
        "user": user or "0",
        "group": group or (user if user.isdigit() else "0"),
        "environment": _pairs(dict(item.split("=", 1) for item in options.env)),
        "workingDirectory": options.working_dir,
        "mountPoints": [{"name": _mount_name(path), "path": path} for path in options.volumes],
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


def _arch(go: str) -> str:
    return _FROM_GO.get(go, go)


def _pairs(table: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": key, "value": value} for key, value in table.items()]


def _mount_name(path: str) -> str:
    """docker2aci's rule: `/var/lib/db` → `volume-var-lib-db`."""
    return "volume-" + re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")


def _port(text: str) -> dict[str, Any]:
    number, _, protocol = text.partition("/")
    return {"name": f"{number}-{protocol or 'tcp'}", "protocol": protocol or "tcp", "port": int(number)}
