"""The isolators of a manifest, read into what stage1 enforces; what it would have to ignore is refused.

Source: appc spec 0.8.11, ace.md; `gantry.io/…` are ours. Which of them a machine can enforce is not asked here.
"""

import errno
import resource
from typing import Any, Final, NamedTuple

from executor.stage1 import caps, lsm
from executor.stage1 import seccomp as filters

_SUFFIXES: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


class ManifestError(ValueError):
    """The manifest asks for something malformed or not supported; the message names the field."""


class Limits(NamedTuple):
    """Cgroup limits: thousandths of a cpu, bytes, processes, bytes and operations per second of the disk below the pod
    directory; None is no limit. `cpu_shares` goes before the request."""

    cpu_request_milli: int | None = None
    cpu_limit_milli: int | None = None
    memory_limit: int | None = None
    cpu_shares: int | None = None
    pids: int | None = None
    block_bandwidth: int | None = None
    block_iops: int | None = None


NO_LIMITS: Final = Limits()

_LIMITS: Final = (
    "resource/cpu", "resource/memory", "os/linux/cpu-shares", "gantry.io/pids", "resource/block-bandwidth",
    "resource/block-iops", "resource/network-bandwidth",
)  # fmt: skip
CAPABILITIES: Final = ("os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set")
SECCOMP: Final = ("os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set", "gantry.io/seccomp-profile")
WITHIN_DEFAULT: Final = "gantry.io/within-default"
"""In the value of a seccomp isolator, true: what the flavor's own filter forbids stays forbidden."""
OF_A_POD: Final = frozenset({*_LIMITS, "os/unix/sysctl"})
OF_AN_APP: Final = frozenset(
    {
        *(*_LIMITS, *CAPABILITIES, *SECCOMP, *lsm.ISOLATORS),
        *("gantry.io/rlimits", "os/linux/no-new-privileges", "os/linux/oom-score-adj"),
    }
)
"""The names that are known; any other is refused."""


def of_app(app: str, entries: Any) -> dict[str, Any]:
    """By the names of the fields of `manifest.App`. Raises ManifestError."""
    found: dict[str, Any] = {
        "capabilities": None,
        "no_new_privileges": False,
        "oom_score_adj": None,
        "limits": NO_LIMITS,
        "rlimits": (),
        "seccomp": None,
        "seccomp_given": False,
        "label": None,
    }
    asked = []
    for entry in entries:
        name, value = str(entry["name"]), entry["value"]
        if (limits := _limited(found["limits"], f"app {app}", name, value)) is not None:
            found["limits"] = limits
        elif name == "gantry.io/rlimits":
            found["rlimits"] = _rlimits(app, value)
        elif name == "os/linux/capabilities-retain-set":
            found["capabilities"] = _capability_names(app, value["set"])
        elif name == "os/linux/capabilities-remove-set":
            found["capabilities"] = caps.DEFAULT - _capability_names(app, value["set"])
        elif name == "os/linux/no-new-privileges":
            found["no_new_privileges"] = bool(value)
        elif name == "os/linux/oom-score-adj":
            found["oom_score_adj"] = int(value)
        elif name in lsm.ISOLATORS:
            found["label"] = _label(app, name, value, found["label"])
        elif name in SECCOMP:
            asked.append((name, value))
        else:
            raise ManifestError(f"app {app}: isolator {name}: not supported")
    if len(asked) > 1:
        raise ManifestError(f"app {app}: isolator {asked[1][0]}: there is a seccomp filter already")
    if asked:
        found["seccomp"] = _seccomp(app, *asked[0], found["capabilities"])
        found["seccomp_given"] = found["seccomp"] is not None or not asked[0][1].get(WITHIN_DEFAULT)
    return found


def _label(app: str, name: str, value: Any, before: lsm.Label | None) -> lsm.Label:
    if before is not None:
        raise ManifestError(f"app {app}: isolator {name}: there is a label already")
    try:
        return lsm.read(name, value)
    except ValueError as error:
        raise ManifestError(f"app {app}: isolator {name}: {error}") from None


def _limited(limits: Limits, whose: str, name: str, value: Any) -> Limits | None:
    """`limits` with what an isolator adds; None when it is no limit of a cgroup."""
    if name == "resource/cpu":
        limit, request = value.get("limit"), value.get("request", value.get("limit"))
        return limits._replace(
            cpu_limit_milli=None if limit is None else quantity(limit, scale=3),
            cpu_request_milli=None if request is None else quantity(request, scale=3),
        )
    if name == "resource/memory":
        return limits._replace(memory_limit=None if value.get("limit") is None else quantity(value["limit"]))
    if name == "os/linux/cpu-shares":
        if not isinstance(value, int) or not 2 <= value <= 262_144:
            raise ManifestError(f"{whose}: isolator {name}: {value!r} is not a number from 2 to 262144")
        return limits._replace(cpu_shares=value)
    if name == "gantry.io/pids":
        if not isinstance(value.get("limit"), int) or value["limit"] < 1:
            raise ManifestError(
                f"{whose}: isolator {name}: limit {value.get('limit')!r} is not a positive number"
            )
        return limits._replace(pids=value["limit"])
    if name in ("resource/block-bandwidth", "resource/block-iops"):
        rate = None if value.get("limit") is None else quantity(value["limit"])
        if value.get("default") is not True or "request" in value or not rate:  # appc ace.md
            raise ManifestError(f"{whose}: isolator {name}: needs default: true and a limit, and no request")
        field = "block_bandwidth" if name == "resource/block-bandwidth" else "block_iops"
        return limits._replace(**{field: rate})
    if name == "resource/network-bandwidth":
        raise ManifestError(f"{whose}: isolator {name}: nothing here limits what a pod uses of the network")
    return None


def of_pod(entries: Any) -> tuple[Limits, tuple[tuple[str, str], ...]]:
    """The limits of all apps together, and kernel parameters. Raises ManifestError."""
    limits, sysctls = NO_LIMITS, {}
    for entry in entries:
        name, value = str(entry["name"]), entry["value"]
        limited = _limited(limits, "pod", name, value)
        if limited is not None:
            limits = limited
        elif name == "os/unix/sysctl":
            for key, setting in value.items():
                sysctls[_sysctl(str(key))] = str(setting)
        else:
            raise ManifestError(f"pod isolator {name}: not supported on a pod")
    return limits, tuple(sysctls.items())


def _sysctl(name: str) -> str:
    """Only what the pod's ipc and network namespaces have for themselves (sysctl(7), namespaces(7))."""
    own = name.startswith(("net.", "fs.mqueue.", "kernel.shm", "kernel.msg")) or name == "kernel.sem"
    if not own or ".." in name or "/" in name:
        raise ManifestError(
            f"pod isolator os/unix/sysctl: {name} is not the pod's own: it would be the host's"
        )
    return name


def _rlimits(app: str, value: Any) -> tuple[tuple[int, int, int], ...]:
    """{"nofile": {"soft": 1024, "hard": 4096}, …}; "hard" defaults to "soft", -1 is no limit."""
    made = []
    for name, pair in value.items():
        number = getattr(resource, f"RLIMIT_{str(name).upper()}", None)
        if number is None:
            raise ManifestError(f"app {app}: isolator gantry.io/rlimits: Linux has no limit {name!r}")
        soft, hard = pair["soft"], pair.get("hard", pair["soft"])
        if not all(isinstance(one, int) and one >= -1 for one in (soft, hard)):
            raise ManifestError(f"app {app}: isolator gantry.io/rlimits: {name}: {pair!r} are not numbers")
        made.append((number, soft, hard))
    return tuple(made)


def _seccomp(app: str, name: str, value: Any, capabilities: frozenset[str] | None) -> filters.Filter | None:
    """The filter of an isolator. The sets are appc's: {"set": [names or @sets], "errno": "EPERM"}."""
    try:
        if name == "gantry.io/seccomp-profile":
            return filters.from_profile(value)
        number = None
        if word := value.get("errno"):
            number = getattr(errno, str(word), None)
            if not isinstance(number, int):
                raise ManifestError(f"app {app}: isolator {name}: Linux has no errno {word!r}")
        names = [str(one) for one in value["set"]]
        kept = caps.DEFAULT if capabilities is None else capabilities
        if name == "os/linux/seccomp-retain-set":
            wanted = filters.retain(names, number)
        else:
            wanted = filters.remove(names, number, kept)
        if wanted is not None and value.get(WITHIN_DEFAULT):
            return filters.within(filters.default_filter(kept), wanted)
        return wanted
    except filters.SeccompError as error:
        raise ManifestError(f"app {app}: isolator {name}: {error}") from None


def _capability_names(app: str, names: list[str]) -> frozenset[str]:
    unknown = [name for name in names if name not in caps.NUMBERS]
    if unknown:
        raise ManifestError(f"app {app}: Linux has no capability {', '.join(unknown)}")
    return frozenset(names)


def quantity(text: Any, scale: int = 0) -> int:
    """A quantity ("1500m", "64Mi", "1.5G", 2) times 10**scale, rounded up to an integer.

    >>> quantity("250m", scale=3), quantity("64Mi"), quantity("1.5G")
    (250, 67108864, 1500000000)
    """
    string = str(text)
    number = string.rstrip("numkKMGTPEi")
    suffix = string[len(number) :]
    number, mark, exponent = number.replace("E", "e").partition("e")
    whole, _, fraction = number.partition(".")
    digits = whole + fraction
    if exponent.removeprefix("-").isdigit() and not suffix:
        scale += int(exponent)
    elif mark:
        digits = ""
    if not digits.isascii() or not digits.isdigit() or (suffix not in _SUFFIXES and suffix not in _BINARY):
        raise ManifestError(f"quantity {string!r}: not a number with a suffix")
    value, power = int(digits), scale - len(fraction)
    if suffix in _BINARY:
        value <<= _BINARY[suffix]
    else:
        power += _SUFFIXES[suffix]
    scaled: int = value * 10**power if power >= 0 else -(-value // 10**-power)
    return scaled
