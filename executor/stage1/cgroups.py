"""Where a pod's cgroups are, what is written into them, and how they are emptied and removed (v1 and v2).

Everything works on a `Layout` (a map from controller to directory), so the logic runs on any directory tree.
v1: `<executor's own cgroup>/gantry.<pod>/<app>` in each hierarchy, so the agent's limits hold for the pod too; in those
of memory and the freezer `gantry.<pod>~<app>` where nothing is for the pod as a whole there: each cgroup costs.
v2: `<mount>/gantry/gantry.<pod>/<app>` (or `gantry-pods`), beside the agent's tree and never below it: the agent
would take what it does not know for nested containers and destroy it. Processes are only in leaves there (`.init`
is init's).
"""

import os
from collections.abc import Collection
from typing import Final

from executor.stage1.cgroup_spares import Spares
from executor.stage1.cgroup_trees import (
    PREFIX,
    CgroupError,
    Layout,
    Lock,
    hold_leftover,
    kill_tree,
    leftovers,
    make_held,
    mkdir,
    read,
    remove_tree,
    vacate,
    write,
)
from executor.stage1.manifest import Limits

__all__ = [
    "PREFIX",
    "CgroupError",
    "Layout",
    "Lock",
    "PodCgroup",
    "detect",
    "disk_below",
    "further_writes",
    "hold_leftover",
    "kill_tree",
    "leftovers",
    "limit_writes",
    "remove_tree",
    "write",
]

CONTROLLERS: Final = ("memory", "freezer", "cpu", "cpuacct", "pids", "blkio")
BLOCK: Final = (
    "blkio"  # joined by those only that are limited there: each hierarchy is one more move at a start
)
INIT_LEAF: Final = ".init"
_V2_CONTROLLERS: Final = ("cpu", "memory", "pids", "io")
_PERIOD_US: Final = 100_000
_V1_MEMORY: Final = "memory.limit_in_bytes"


def detect(own: str, mountinfo: str) -> Layout:
    """Find the hierarchies from the texts of /proc/self/cgroup and /proc/self/mountinfo; raises CgroupError."""
    paths: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    base: dict[str, str] = {}
    unified = ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        fstype, _, options = right.split(" ")[:3]  # the source in the middle may be empty
        if fstype == "cgroup2":
            unified = unified or point
        elif fstype == "cgroup":
            for controller in options.split(","):
                if controller in CONTROLLERS and controller in paths and controller not in base:
                    base[controller] = _below(point, root, paths[controller])
    if base:
        return Layout(1, {name: base[name] for name in CONTROLLERS if name in base})
    if unified:
        agents = paths.get("", "/").split("/")[1]  # the agent's root may have any name, ours too
        return Layout(2, {"": os.path.join(unified, "gantry" if agents != "gantry" else "gantry-pods")})
    raise CgroupError(
        "no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup, or the v1 controllers"
    )


def _below(point: str, root: str, path: str) -> str:
    """Directory of cgroup `path` when the hierarchy's `root` is what is mounted on `point`."""
    if root != "/":
        path = path[len(root) :] if path == root or path.startswith(root + "/") else ""
    return os.path.normpath(point + "/" + path)


def disk_below(path: str) -> str:
    """MAJOR:MINOR of the whole disk on which `path` lies, as limits name it. Raises OSError, CgroupError."""
    device = os.stat(path).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    if os.major(device) == 0:
        raise CgroupError(
            f"a limit on the use of the disk: {path} lies on no disk, but on a virtual file system"
        )
    if os.path.exists(f"/sys/dev/block/{name}/partition"):
        return read(f"/sys/dev/block/{name}/../dev").strip()
    return name


def limit_writes(version: int, limits: Limits, disk: str = "") -> list[tuple[str, str, str]]:
    """(controller, file, value) of an app's limits; `disk` as `disk_below` names it.

    cpu: Kubernetes' conversion of requests to shares (2…262144) and limits to a quota with microsecond
    precision; v2 weight from shares as in the OCI runtimes (runc libcontainer ConvertCPUSharesToCgroupV2Value).
    """
    writes: list[tuple[str, str, str]] = []
    shares = limits.cpu_shares
    if shares is None and limits.cpu_request_milli is not None:
        shares = min(max(limits.cpu_request_milli * 1024 // 1000, 2), 262_144)
    if shares is not None:
        weight = 1 + (shares - 2) * 9999 // 262_142
        writes.append(
            ("cpu", "cpu.shares", str(shares)) if version == 1 else ("cpu", "cpu.weight", str(weight))
        )
    if limits.cpu_limit_milli is not None:
        quota = max(limits.cpu_limit_milli * _PERIOD_US // 1000, 1000)
        if version == 1:
            writes.append(("cpu", "cpu.cfs_quota_us", str(quota)))
        else:
            writes.append(("cpu", "cpu.max", f"{quota} {_PERIOD_US}"))
    if limits.memory_limit is not None:
        file = _V1_MEMORY if version == 1 else "memory.max"
        writes.append(("memory", file, str(limits.memory_limit)))
    if limits.pids is not None:
        writes.append(("pids", "pids.max", str(limits.pids)))
    return writes + _block_writes(version, limits, disk)


def further_writes(version: int, limits: Limits, *, of_app: bool) -> list[tuple[str, str, str]]:
    """(controller, file, value) of what the kubelet sets as well, where the kernel has it (after `limit_writes`).

    A limit of memory is one of swap, too (kuberuntime_container_linux.go, NoSwap), and in v2 an app that exceeds it
    ends as a whole (since Kubernetes 1.28). memory.high stays as it is, as without the feature gate MemoryQoS.
    """
    if limits.memory_limit is None:
        return []
    if version == 1:
        return [("memory", "memory.memsw.limit_in_bytes", str(limits.memory_limit))]
    return [("memory", "memory.swap.max", "0"), *([("memory", "memory.oom.group", "1")] if of_app else [])]


def _block_writes(version: int, limits: Limits, disk: str) -> list[tuple[str, str, str]]:
    """Reads and writes have the same limit each (v1: blkio-controller.rst; v2: cgroup-v2.rst, io.max)."""
    rates = {"bps": limits.block_bandwidth, "iops": limits.block_iops}
    given = {unit: rate for unit, rate in rates.items() if rate is not None}
    if version == 1:
        return [
            (BLOCK, f"blkio.throttle.{way}_{unit}_device", f"{disk} {rate}")
            for unit, rate in given.items()
            for way in ("read", "write")
        ]
    values = [f"{way}{unit}={rate}" for unit, rate in given.items() for way in "rw"]
    return [("io", "io.max", " ".join([disk, *values]))] if values else []


class PodCgroup:
    """The cgroups of one pod. `disk`: of which it, or an app of it, has a limited part (see `disk_below`).

    `without`: controllers of v1 that it need not be in, for nothing there is limited; each costs every start. `apart`:
    its apps' cgroups are not below one of the pod's where that would be of no use. `spares`: whence some come and
    where they go; for pods that cannot move their processes themselves.
    """

    def __init__(
        self, layout: Layout, pod: str, *, disk: str = "", without: Collection[str] = (), apart: bool = False,
        spares: Spares | None = None,
    ) -> None:  # fmt: skip
        self._whole = layout
        self._disk = disk
        self._apart = _apart(layout) if apart else frozenset()
        self._spares = spares if self._apart else None  # else its init may be in the pod's
        self.name = PREFIX + pod
        self._choose(without)
        self._members = "tasks" if layout.version == 1 else "cgroup.procs"
        self._held: dict[str, int] = {}
        self._apps: dict[str, tuple[str, ...]] = {}
        self._limits: dict[str, Limits] = {}
        self._new: set[str] = set()
        self._entered: set[str] = set()
        self._vacated: set[str] = set()
        self._altered: set[str] = set()

    def _choose(self, without: Collection[str]) -> None:
        without = without if self._disk else (*without, BLOCK)
        base = {name: path for name, path in self._whole.base.items() if name not in without}
        self.layout = Layout(self._whole.version, base)
        self._roots = self.layout.roots
        self.directories = tuple(f"{root}/{self.name}" for root in self._roots if root not in self._apart)
        # Apps join what is first in the layout first: who is not in there is in none of the others.
        first = next((base[name] for name in ("memory", "freezer") if name in base), "")
        self._witness = first if self.layout.version == 1 else ""

    def extend(self, without: Collection[str]) -> None:
        """Be in more of them, for apps that come later, too. Raises OSError, CgroupError."""
        before = self.directories
        self._choose(without)
        for directory in self.directories:
            if directory not in before:
                self._make(directory)
        self.directories = tuple(dict.fromkeys((*before, *self.directories)))

    def create(self) -> None:
        """Make the pod's directories (and on v2 pass the controllers down), and hold them (see `leftovers`).

        Raises OSError, CgroupError.
        """
        if self.layout.version == 2:
            os.makedirs(self.layout.roots[0], exist_ok=True)
        for directory in self.directories:
            self._make(directory)
        if self.layout.version == 2:
            _ask_above(os.path.dirname(self.layout.roots[0]))
            for directory in (self.layout.roots[0], self.directories[0]):
                _delegate(directory)
            mkdir(os.path.join(self.directories[0], INIT_LEAF))

    def _make(self, directory: str) -> bool:
        """Whether it is new; it is held."""
        if directory in self._held:
            return False
        fd = self._spares.take(directory) if self._spares is not None else -1
        self._held[directory], new = (fd, True) if fd >= 0 else make_held(directory)
        return new

    def _let_go(self, directory: str) -> None:
        fd = self._held.pop(directory, -1)
        if fd >= 0:
            os.close(fd)

    def directory(self, root: str, app: str) -> str:
        """Of an app, or the pod, in a hierarchy."""
        if app and root in self._apart:
            return f"{root}/{self.name}~{app}"
        return f"{root}/{self.name}/{app}" if app else f"{root}/{self.name}"

    def _make_one(self, root: str, app: str) -> bool:
        """Whether the directory of an app's is new."""
        directory = self.directory(root, app)
        return self._make(directory) if root in self._apart else mkdir(directory)

    def place(self, app: str, limits: Limits, *, alone: bool = False) -> None:
        """Say where the app will have directories of its own; elsewhere in v1 it is in the pod's.

        alone: it is the pod's only app. Then its own are those that tell its processes and its memory from the pod's,
        and that limit it. Each costs every start, and a process is as well off in the pod's.
        """
        own = self._roots
        if alone and self.layout.version == 1:
            limited = {"memory", "freezer", *(controller for controller, _, _ in self.writes(limits))}
            roots = {self.layout.base[name] for name in limited if name in self.layout.base}
            own = tuple(root for root in own if root in roots) or own
        self._apps[app] = tuple(dict.fromkeys((*self._apps.get(app, ()), *own)))
        self._limits[app] = limits

    def create_app(self, app: str, limits: Limits, *, alone: bool = False) -> None:
        """Make the app's directories and set its limits; raises CgroupError when one cannot be enforced."""
        self.place(app, limits, alone=alone)
        new = all([self._make_one(root, app) for root in self._apps[app]])  # noqa: C419 - each of them
        if new:
            self._new.add(app)
        self._vacated.discard(app)
        self.limit(limits, app, new=new)

    def renew(self, app: str) -> None:
        """Make the directory again that `kill` has taken away, for the next start. Raises OSError, CgroupError."""
        if app in self._vacated:
            self._vacated.discard(app)
            new = self._make_one(self._witness, app)
            self.limit(self._limits[app], app, new=new)

    def limit(self, limits: Limits, app: str = "", *, new: bool = False) -> None:
        """Set the limits of the app (of the pod without `app`); raises CgroupError when one cannot be enforced.

        new: nobody has set any before.
        """
        for controller, file, value in self.writes(limits):
            root = self.layout.base.get(controller if self.layout.version == 1 else "")
            directory = self.directory(root or "", app)
            path = f"{directory}/{file}"
            self._altered.add(directory)
            if file == _V1_MEMORY and root is not None and not new:
                _let_swap(path, int(value))
            if root is None or not _set(path, value):
                raise CgroupError(
                    f"limit {file}={value}: the cgroup controller {controller} is not available here"
                )
        for controller, file, value in further_writes(self.layout.version, limits, of_app=bool(app)):
            root = self.layout.base.get(controller if self.layout.version == 1 else "")
            if root is not None:
                _set(f"{self.directory(root, app)}/{file}", value)

    def writes(self, limits: Limits) -> list[tuple[str, str, str]]:
        """(controller, file, value) of limits here."""
        return limit_writes(self.layout.version, limits, self._disk)

    def init_members(self) -> tuple[str, ...]:
        """The files into which init writes itself."""
        file = "tasks" if self.layout.version == 1 else f"{INIT_LEAF}/cgroup.procs"
        return tuple(f"{directory}/{file}" for directory in self.directories)

    def app_members(self, app: str) -> tuple[str, ...]:
        """The files into which the app's first process writes "0" to join.

        v1: `tasks`, not `cgroup.procs`: a thread that moves itself does not wait for the system-wide
        cgroup_threadgroup_rwsem (kernel/cgroup/cgroup.c, cgroup_procs_write_start).
        """
        own = self._apps.get(app, self._roots)
        return tuple(
            f"{self.directory(root, app if root in own else '')}/{self._members}" for root in self._roots
        )

    def oom_kills(self, app: str) -> int:
        """How many of the app's processes the kernel has killed for memory so far."""
        root = self.layout.base.get("memory" if self.layout.version == 1 else "")
        if root is None:
            return 0
        file = "memory.oom_control" if self.layout.version == 1 else "memory.events"
        return _counter(f"{self.directory(root, app)}/{file}", "oom_kill")

    def oom_kills_before(self, app: str) -> int:
        """The same before a start, the first of which nobody has been in directories before that are new."""
        first = app not in self._entered
        self._entered.add(app)
        return 0 if first and (app in self._new or app not in self._apps) else self.oom_kills(app)

    def kill(self, app: str = "") -> bool:
        """SIGKILL every process of the app (of the pod without `app`); True when there was none left.

        What counts of the app is gone then (see `oom_kills`).
        """
        root = self.layout.base.get("freezer", self._roots[0])
        if not app and root in self._apart:
            return all([self.kill(one) for one in self._apps])  # noqa: C419 - of each
        if app and self._witness and vacate(witness := self.directory(self._witness, app)):
            self._let_go(witness)
            self._vacated.add(app)
            return True
        return kill_tree(self.directory(root, app), self.layout.version)

    def kill_directory(self) -> str:
        """The pod's directory in the hierarchy that killing works on (the freezer's, if there is one).

        For whoever kills a pod without knowing its apps: these must not be apart.
        """
        root = self.layout.base.get("freezer")
        return os.path.join(root, self.name) if root else self.directories[0]

    def remove(self, app: str = "") -> bool:
        """Remove the directories of the app (of the pod); False when one is still in use: try again soon."""
        names = [app] if app else list(self._apps)
        if not all([self._is_empty(name) for name in names]):  # noqa: C419 - each of them
            return False
        gone = [
            self._remove(self.directory(root, name))
            for name in names
            for root in self._apps.get(name, self._roots)
            if root != self._witness
        ]
        gone += [self._remove(directory) for directory in ([] if app else self.directories)]
        if not all(gone):
            return False
        self._vacated -= set(names)
        return True

    def _is_empty(self, app: str) -> bool:
        """Whether nobody is in any cgroup of the app's; the one that tells has gone then."""
        if app in self._vacated or not self._witness:
            return True
        if not self._remove(self.directory(self._witness, app)):
            return False
        self._vacated.add(app)
        return True

    def _remove(self, directory: str) -> bool:
        fd = self._held.get(directory, -1) if directory not in self._altered else -1
        if fd >= 0 and self._spares is not None and self._spares.keep(directory, fd):
            del self._held[directory]
            return True
        if not remove_tree(directory):
            return False
        self._let_go(directory)
        return True


def _apart(layout: Layout) -> frozenset[str]:
    """The hierarchies in which apps need no cgroup of their pod's above theirs."""
    if layout.version == 2:
        return frozenset()
    others = {root for name, root in layout.base.items() if name not in ("memory", "freezer")}
    return frozenset(layout.roots) - others if others else frozenset()


def _set(path: str, value: str) -> bool:
    """Whether there is such a file; then it has been written."""
    try:
        write(path, value)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CgroupError(f"write {value} to {path}: {os.strerror(error.errno or 0)}") from None
    return True


def _let_swap(path: str, limit: int) -> None:
    """A limit of memory can be no higher than that of memory and swap, which an earlier one may have left here."""
    both = path.replace("memory.limit", "memory.memsw.limit")
    if int(read(both) or limit) < limit:
        _set(both, "-1")


def _ask_above(directory: str) -> None:
    """The root of v2 passes down what somebody asks for: systemd does, where it runs. Limits say what is missing."""
    try:
        _delegate(directory)
    except OSError:
        pass  # in a container the root has processes, or is not ours to change


def _delegate(directory: str) -> None:
    with open(os.path.join(directory, "cgroup.controllers"), encoding="ascii") as file:
        present = file.read().split()
    wanted = " ".join(f"+{name}" for name in _V2_CONTROLLERS if name in present)
    if wanted:
        write(os.path.join(directory, "cgroup.subtree_control"), wanted)


def _counter(path: str, key: str) -> int:
    for line in read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
