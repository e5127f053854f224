"""NVIDIA GPUs: which of them this executor may use, and which app gets which.

The agent's `gpu/nvidia` isolator lets an executor's container open the GPUs of its tasks, before it sends the task
(Mesos `src/slave/containerizer/mesos/isolators/gpu/isolator.cpp`), but tells nobody which they are. On cgroup v1 the
executor's own `devices.list` says it; elsewhere a device that can be opened is one that may be used. Where the agent
isolates nothing, a lock file for each GPU keeps the executors of a machine apart. What is assigned is remembered by
this process alone: pods end with it.
"""

import fcntl
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shared.models.quantities import parse_quantity

RESOURCE: Final = "nvidia.com/gpu"
CONTROL: Final = ("nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools")
"""Devices that belong to no GPU and that every app with one needs."""

_GPU: Final = re.compile(r"nvidia(\d+)")


class GpuError(ValueError):
    """There are not as many GPUs as the pod was promised. reason: as the kubelet's, of the pod's status."""

    reason: Final = "UnexpectedAdmissionError"


@dataclass(frozen=True, slots=True)
class Devices:
    """What one container gets: device files of the host, and the numbers of its GPUs."""

    files: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


NO_DEVICES: Final = Devices()


# ---- who gets which: pure


def wanted(pod: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """GPUs of the init containers and of the others, by name of the container; those that want some."""
    spec = pod["spec"]
    found = tuple(
        {
            one["name"]: int(parse_quantity(limits[RESOURCE]))
            for one in spec.get(key) or ()
            if RESOURCE in (limits := (one.get("resources") or {}).get("limits") or {})
        }
        for key in ("initContainers", "containers")
    )
    return found[0], found[1]


def needed(inits: Mapping[str, int], mains: Mapping[str, int]) -> int:
    """Of the whole pod: init containers run alone, the others together."""
    return max([sum(mains.values()), *inits.values()])


def share(
    gpus: Sequence[int], inits: Mapping[str, int], mains: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Each container its own ones; init containers share them with those that come later, as in Kubernetes."""
    shares = {name: tuple(gpus[:count]) for name, count in inits.items()}
    start = 0
    for name, count in mains.items():
        shares[name] = tuple(gpus[start : start + count])
        start += count
    return {name: numbers for name, numbers in shares.items() if numbers}


# ---- which there are


@dataclass(frozen=True, slots=True)
class Host:
    """Where devices and this process' own cgroup are found: directories, so that tests have their own."""

    devices: Path = Path("/dev")
    process: Path = Path("/proc/self")

    def usable(self) -> list[int]:
        """The numbers of the GPUs that this process may open now."""
        allowed = self._allowed()
        matches = filter(None, map(_GPU.fullmatch, _names(self.devices)))
        numbers = sorted(int(match.group(1)) for match in matches)
        return [one for one in numbers if _is_device(self.gpu(one)) and allowed(self.gpu(one))]

    def gpu(self, number: int) -> str:
        """Its device file."""
        return str(self.devices / f"nvidia{number}")

    def control(self) -> list[str]:
        """The control devices that there are and that may be used."""
        allowed = self._allowed()
        paths = [str(self.devices / name) for name in CONTROL]
        return [path for path in paths if _is_device(path) and allowed(path)]

    def _allowed(self) -> Callable[[str], bool]:
        own = _devices_cgroup(_read(self.process / "cgroup"), _read(self.process / "mountinfo"))
        rules = _read(Path(own, "devices.list")) if own else ""
        if not rules:
            return _opens
        return lambda path: allows(rules, os.stat(path).st_rdev)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _opens(path: str) -> bool:
    """cgroup v2 has no list: its program is asked by opening."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def allows(rules: str, device: int) -> bool:
    """Whether a devices.list (kernel doc cgroup-v1/devices) lets a character device be read and written."""
    numbers = (str(os.major(device)), str(os.minor(device)))
    for line in rules.splitlines():
        kind, _, rest = line.partition(" ")
        pair, _, access = rest.partition(" ")
        named = all(want in ("*", have) for want, have in zip(pair.split(":"), numbers, strict=False))
        if kind in ("a", "c") and {"r", "w"} <= set(access) and named:
            return True
    return False


def _devices_cgroup(own: str, mountinfo: str) -> str:
    """This process' directory in the v1 hierarchy `devices`; "" when there is none."""
    path = next(
        (line.split(":", 2)[2] for line in own.splitlines() if "devices" in line.split(":", 2)[1].split(",")),
        None,
    )
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if path is None or kind != "cgroup" or "devices" not in options.split(","):
            continue
        root, point = left.split(" ")[3:5]
        below = path if root == "/" else path.removeprefix(root)
        return os.path.normpath(f"{point}/{below}")
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# ---- who has which


@dataclass
class Gpus:
    """The GPUs of this machine, as this executor shares them among its pods. locks: a directory of the machine."""

    host: Host
    locks: Path
    _held: dict[str, dict[int, int]] = field(default_factory=dict)  # by pod: number → locked descriptor

    def take(self, owner: str, pod: Mapping[str, Any]) -> dict[str, Devices]:
        """Devices of each container that asks for GPUs. Raises GpuError when there are not as many."""
        inits, mains = wanted(pod)
        count = needed(inits, mains)
        if not count:
            return {}
        held = self._lock(count)
        if len(held) < count:
            _unlock(held)
            raise GpuError(
                f"Allocate failed due to requested number of devices unavailable for {RESOURCE}. "
                f"Requested: {count}, Available: {len(held)}, which is unexpected"
            )
        self._held[owner] = held
        control = tuple(self.host.control())
        return {
            name: Devices((*map(self.host.gpu, numbers), *control), numbers)
            for name, numbers in share(sorted(held), inits, mains).items()
        }

    def release(self, owner: str) -> None:
        """The pod is over; idempotent."""
        _unlock(self._held.pop(owner, {}))

    def _lock(self, count: int) -> dict[int, int]:
        """As many free ones, or as there are."""
        held: dict[int, int] = {}
        self.locks.mkdir(parents=True, exist_ok=True)
        for number in self.host.usable():
            if len(held) == count:
                break
            lock = os.open(self.locks / f"nvidia{number}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)  # another pod's, here or in another executor
            else:
                held[number] = lock
        return held


def _unlock(held: Mapping[int, int]) -> None:
    for lock in held.values():
        os.close(lock)
