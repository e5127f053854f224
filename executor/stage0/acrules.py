"""The appc rules that image and pod manifests share: identifiers, lists of named things, apps, isolators.

By the spec's words, which are stricter than appc's own code in places (adjacent separators in names). Keys match
without regard to case and unknown keys are ignored, as in Go's JSON. Every breach is an ImageBroken that names the
field. Sources: appc spec 0.8.11 `types.md`, `aci.md`, `pods.md`, `ace.md`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import orjson

from executor.stage0.errors import ImageBroken
from shared.models.quantities import QuantityError, parse_quantity

# The spec has one - between; rkt and actool take several (schema/types/acidentifier.go): docker2aci makes such names.
_IDENTIFIER = re.compile(r"[a-z0-9]+((-+|[._~/])[a-z0-9]+)*")
_NAME = re.compile(r"[a-z0-9]+(-+[a-z0-9]+)*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9.-]*")
_VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII
)
_IMAGE_ID = re.compile(r"sha512-[0-9a-f]{2,128}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_URL = re.compile(r"https?://[^/\s]+.*", re.IGNORECASE)
_ERRNO = re.compile(r"E[A-Z0-9]+")
_KEYS = (
    "acKind", "acVersion", "name", "labels", "app", "dependencies", "pathWhitelist", "annotations", "value",
    "exec", "user", "group", "supplementaryGIDs", "eventHandlers", "workingDirectory", "environment", "isolators",
    "mountPoints", "ports", "userAnnotations", "userLabels", "path", "readOnly", "protocol", "port", "count",
    "socketActivated", "imageName", "imageID", "size", "apps", "image", "id", "readOnlyRootFS", "mounts", "volume",
    "appVolume", "volumes", "kind", "source", "recursive", "mode", "uid", "gid", "hostPort", "hostIP", "podPort",
)  # fmt: skip
_CANONICAL = {key.lower(): key for key in _KEYS}
_FREE = frozenset({"value", "userAnnotations", "userLabels"})


def load(data: bytes) -> dict[str, Any]:
    """A JSON object with the spec's spelling of its keys, whatever case they have; maps of free keys stay as they are.

    ImageBroken when it is something else.
    """
    try:
        obj = _canonical(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise ImageBroken(f"manifest: not JSON: {str(error)[:200]}") from None
    except RecursionError:
        raise ImageBroken("manifest: nested too deeply") from None
    if not isinstance(obj, dict):
        raise ImageBroken("manifest: not a JSON object")
    return obj


def _canonical(value: Any) -> Any:
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        name = _CANONICAL.get(key.lower(), key)
        result[name] = item if name in _FREE else _canonical(item)
    return result


def bad(field: str, what: str) -> NoReturn:
    """ImageBroken about a field."""
    raise ImageBroken(f"manifest: {field}: {what}")


def header(manifest: Mapping[str, Any], kind: str) -> None:
    """`acKind` and `acVersion`."""
    if manifest.get("acKind") != kind:
        bad("acKind", f"{_short(manifest.get('acKind'))} is not {kind!r}")
    version = manifest.get("acVersion")
    if not isinstance(version, str) or not _VERSION.fullmatch(version) or version == "0.0.0":
        bad("acVersion", f"{_short(version)} is not a semantic version")


def identifier(value: object, field: str) -> str:
    if not isinstance(value, str) or len(value) > 1024 or not _IDENTIFIER.fullmatch(value):
        bad(
            field,
            f"{_short(value)} is not an AC identifier (lower case, digits, between them - or one of ._~/)",
        )
    return value


def ac_name(value: object, field: str) -> str:
    if not isinstance(value, str) or len(value) > 1024 or not _NAME.fullmatch(value):
        bad(field, f"{_short(value)} is not an AC name (lower case, digits, - between them)")
    return value


def image_id(value: object, field: str) -> str:
    """Of `sha512-` and hex digits; half a digest, as rkt writes it, is one."""
    if not isinstance(value, str) or not _IMAGE_ID.fullmatch(value):
        bad(field, f"{_short(value)} is not an image ID (sha512-…)")
    return value


def absolute(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or len(value) > 4095:
        bad(field, f"{_short(value)} is not an absolute path")
    return value


def boolean(obj: Mapping[str, Any], key: str, field: str) -> None:
    if not isinstance(obj.get(key), bool | None):
        bad(field, f"{key} is neither true nor false")


def whole(value: object, field: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        bad(field, f"{_short(value)} is not a number from {low} to {high}")
    return value


def array(obj: Mapping[str, Any], key: str, field: str = "") -> list[Any]:
    value = obj.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        bad(field or key, "not a list")
    return value


def objects(obj: Mapping[str, Any], key: str, field: str = "") -> list[dict[str, Any]]:
    items = array(obj, key, field)
    if not all(isinstance(item, dict) for item in items):
        bad(field or key, "not a list of objects")
    return items


def named(obj: Mapping[str, Any], key: str, field: str = "") -> list[dict[str, Any]]:
    """A list of {name, …} with unique names."""
    items = objects(obj, key, field)
    seen: set[str] = set()
    for item in items:
        name = item.get("name")
        if not isinstance(name, str) or not name:
            bad(field or key, "an entry without a name")
        if name in seen:
            bad(field or key, f"{name[:100]!r} is there twice")
        seen.add(name)
    return items


def pairs(obj: Mapping[str, Any], key: str, field: str = "") -> dict[str, str]:
    """A list of {name, value}: AC identifiers, each once, with strings."""
    found: dict[str, str] = {}
    for entry in named(obj, key, field):
        name = identifier(entry["name"], f"{field or key}: name")
        if not isinstance(entry.get("value"), str):
            bad(field or key, f"{name!r} has no value")
        found[name] = entry["value"]
    return found


def annotations(obj: Mapping[str, Any], field: str = "annotations") -> None:
    found = pairs(obj, "annotations", field)
    if "created" in found and not _DATE.fullmatch(found["created"]):
        bad(field, f"created: {found['created'][:60]!r} is not a date as in RFC 3339")
    for key in ("homepage", "documentation"):
        if key in found and not _URL.fullmatch(found[key]):
            bad(field, f"{key}: {found[key][:100]!r} is not an http or https URL")


def labels(obj: Mapping[str, Any], field: str = "labels") -> dict[str, str]:
    found = pairs(obj, "labels", field)
    if "name" in found:
        bad(field, "'name' is forbidden")
    return found


def string_map(obj: Mapping[str, Any], key: str, field: str) -> None:
    value = obj.get(key)
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        bad(field, "not a map of strings")


# -- apps


def app(value: object, field: str = "app") -> None:
    """The `app` section of an image, or of a pod's app."""
    if not isinstance(value, dict):
        bad(field, "not an object")
    _words(value, "exec", f"{field}.exec")
    for key in ("user", "group"):
        if not isinstance(value.get(key), str) or not value[key] or "\0" in value[key]:
            bad(f"{field}.{key}", "is required")
    for gid in array(value, "supplementaryGIDs", f"{field}.supplementaryGIDs"):
        whole(gid, f"{field}.supplementaryGIDs", 0, 2**32 - 2)
    if value.get("workingDirectory") not in (None, ""):
        absolute(value["workingDirectory"], f"{field}.workingDirectory")
    _entries(value, field)
    isolators(value, f"{field}.isolators", pod=False)
    string_map(value, "userAnnotations", f"{field}.userAnnotations")
    string_map(value, "userLabels", f"{field}.userLabels")


def _entries(value: Mapping[str, Any], field: str) -> None:
    """What an app has several of, each with a name."""
    for entry in named(value, "environment", f"{field}.environment"):
        good = isinstance(entry.get("value"), str) and "\0" not in entry["value"]
        if not _ENV_NAME.fullmatch(entry["name"]) or not good:
            bad(f"{field}.environment", f"{entry['name'][:100]!r} is not a variable with a value")
    for entry in named(value, "eventHandlers", f"{field}.eventHandlers"):
        if entry["name"] not in {"pre-start", "post-stop"}:
            bad(f"{field}.eventHandlers", f"{entry['name'][:100]!r} is neither pre-start nor post-stop")
        if not _words(entry, "exec", f"{field}.eventHandlers"):
            bad(f"{field}.eventHandlers", f"{entry['name']} has nothing to execute")
    for entry in named(value, "mountPoints", f"{field}.mountPoints"):
        ac_name(entry["name"], f"{field}.mountPoints: name")
        absolute(entry.get("path"), f"{field}.mountPoints: {entry['name']}")
        boolean(entry, "readOnly", f"{field}.mountPoints: {entry['name']}")
    for entry in named(value, "ports", f"{field}.ports"):
        _port(entry, f"{field}.ports")


def _words(obj: Mapping[str, Any], key: str, field: str) -> list[str]:
    words = array(obj, key, field)
    if not all(isinstance(word, str) and "\0" not in word for word in words):
        bad(field, "not a list of strings")
    return words


def _port(entry: Mapping[str, Any], field: str) -> None:
    ac_name(entry["name"], f"{field}: name")
    if not isinstance(entry.get("protocol"), str) or not entry["protocol"]:
        bad(field, f"{entry['name']!r} has no protocol")
    port, count = entry.get("port"), entry.get("count", 1)
    count = 1 if count == 0 and count is not False else count  # as schema/types/port.go; actool writes it
    if (
        not isinstance(port, int)
        or not isinstance(count, int)
        or isinstance(port, bool)
        or isinstance(count, bool)
        or not (1 <= port <= 65535 and 1 <= count <= 65536 - port)
    ):
        bad(field, f"{entry['name']!r}: port {_short(port)}, count {_short(count)} is no range of ports")
    boolean(entry, "socketActivated", field)


# -- isolators


def _resource(value: Any, field: str) -> None:
    _limits(value, field, default=False)


def _bandwidth(value: Any, field: str) -> None:
    _limits(value, field, default=True)
    if "request" in value:
        bad(field, "request is forbidden")


def _limits(value: Any, field: str, *, default: bool) -> None:
    if not isinstance(value, dict):
        bad(field, "not an object with request and limit")
    if value.get("default", False) is not default:
        bad(field, f"default must be {str(default).lower()}")
    if value.get("limit") is None and value.get("request") is None:
        bad(field, "has no limit")
    for key in ("request", "limit"):
        if value.get(key) is None:
            continue
        try:
            negative = isinstance(value[key], bool) or parse_quantity(value[key]) < 0
        except QuantityError as error:
            bad(field, f"{key}: {error}")
        if negative:
            bad(field, f"{key}: {_short(value[key])} is not a quantity")


def _set(value: Any, field: str) -> None:
    names = value.get("set") if isinstance(value, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        bad(field, "set: not a list of names, or empty")


def _seccomp(value: Any, field: str) -> None:
    _set(value, field)
    errno = value.get("errno")
    if errno not in (None, "") and not (isinstance(errno, str) and _ERRNO.fullmatch(errno)):
        bad(field, f"errno: {_short(errno)} is not like EPERM")


def _flag(value: Any, field: str) -> None:
    if not isinstance(value, bool):
        bad(field, "is neither true nor false")


def _selinux(value: Any, field: str) -> None:
    parts = [value.get(key) if isinstance(value, dict) else None for key in ("user", "role", "type", "level")]
    if not all(isinstance(part, str) and part for part in parts) or any(
        ":" in str(part) for part in parts[:3]
    ):
        bad(field, "user, role, type and level are required, the first three without ':'")


def _apparmor(value: Any, field: str) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("profile"), str) or not value["profile"]:
        bad(field, "profile is required")


def _sysctl(value: Any, field: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        bad(field, "not a map of strings")


_Check = Callable[[Any, str], object]
_BOTH: dict[str, _Check] = {
    "resource/cpu": _resource, "resource/memory": _resource, "resource/block-bandwidth": _bandwidth,
    "resource/block-iops": _bandwidth, "resource/network-bandwidth": _bandwidth, "os/linux/selinux-context": _selinux,
    "os/linux/apparmor-profile": _apparmor,
}  # fmt: skip
_APP: dict[str, _Check] = {
    "os/linux/capabilities-retain-set": _set, "os/linux/capabilities-remove-set": _set,
    "os/linux/seccomp-retain-set": _seccomp, "os/linux/seccomp-remove-set": _seccomp,
    "os/linux/no-new-privileges": _flag,
    "os/linux/cpu-shares": lambda value, field: whole(value, field, 2, 262144),
    "os/linux/oom-score-adj": lambda value, field: whole(value, field, -1000, 1000),
}  # fmt: skip
_REPEATED = {*_BOTH, "os/linux/no-new-privileges"}  # the last one counts
_POD: dict[str, _Check] = {"os/unix/sysctl": _sysctl}
_EXCLUSIVE = (
    {"os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set"},
    {"os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set"},
)


def isolators(obj: Mapping[str, Any], field: str, *, pod: bool) -> None:
    """Known ones by their rules. Unknown ones are allowed, and reported (`unknown_isolators`)."""
    known = {**_BOTH, **(_POD if pod else _APP)}
    seen: list[str] = []
    for entry in objects(obj, "isolators", field):
        name = identifier(entry.get("name"), f"{field}: name")
        if name in (_APP if pod else _POD):
            bad(field, f"{name} is for {'apps' if pod else 'pods'} only")
        if name in seen and name not in _REPEATED and name in known:
            bad(field, f"{name} is there twice")
        seen.append(name)
        if name in known:
            known[name](entry.get("value"), f"{field}: {name}")
    for group in _EXCLUSIVE:
        if group <= set(seen):
            bad(field, f"{' and '.join(sorted(group))} exclude one another")


def unknown_isolators(obj: Mapping[str, Any]) -> list[str]:
    """Names that the spec does not have: an executor may ignore them, but has to say so."""
    known = {*_BOTH, *_APP, *_POD}
    return [entry["name"] for entry in objects(obj, "isolators") if entry["name"] not in known]


def _short(value: object) -> str:
    return repr(value)[:100]
