"""Where a pod's cgroups are, what is written into them, and how they are emptied and removed (v1 and v2).

Everything works on a `Layout` (a map from controller to directory), so the logic runs on any directory tree.
v1: `<executor's own cgroup>/gantry.<pod>/<app>` in each hierarchy, so the agent's limits hold for the pod too.
v2: `<mount>/gantry/gantry.<pod>/<app>` (or `gantry-pods`), beside the agent's tree and never below it: the agent
would take what it does not know for nested containers and destroy it. Processes are only in leaves there (`.init`
is init's).
"""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from executor.stage1.manifest import Limits

CONTROLLERS: Final = ("memory", "freezer", "cpu", "cpuacct", "pids", "blkio")
BLOCK: Final = (
    "blkio"  # joined by those only that are limited there: each hierarchy is one more move at a start
)
PREFIX: Final = "gantry."
INIT_LEAF: Final = ".init"
_V2_CONTROLLERS: Final = ("cpu", "memory", "pids", "io")
_PERIOD_US: Final = 100_000
_V1_MEMORY: Final = "memory.limit_in_bytes"
_PAGES: Final = 65_536
_NO_DIRECTORIES: Final = 2
_LOCK_SECONDS: Final = 10.0  # nobody has it for more than milliseconds, unless he is stopped


class CgroupError(Exception):
    """No usable cgroups, or a limit that cannot be enforced; the message says what to do."""


class Layout(NamedTuple):
    """`base`: controller → directory below which pods' cgroups go. In v2 all controllers share one."""

    version: int
    base: dict[str, str]

    @property
    def roots(self) -> tuple[str, ...]:
        """The distinct directories, in the order of CONTROLLERS."""
        return tuple(dict.fromkeys(self.base.values()))


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
        return _read(f"/sys/dev/block/{name}/../dev").strip()
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

    `without`: controllers of v1 that it need not be in, for nothing there is limited; each costs every start.
    """

    def __init__(self, layout: Layout, pod: str, *, disk: str = "", without: Collection[str] = ()) -> None:
        self._whole = layout
        self._disk = disk
        self.name = PREFIX + pod
        self._choose(without)
        self._members = "tasks" if layout.version == 1 else "cgroup.procs"
        self._alive: list[int] = []
        self._apps: set[str] = set()

    def _choose(self, without: Collection[str]) -> None:
        without = without if self._disk else (*without, BLOCK)
        base = {name: path for name, path in self._whole.base.items() if name not in without}
        self.layout = Layout(self._whole.version, base)
        self.directories = tuple(os.path.join(root, self.name) for root in self.layout.roots)

    def extend(self, without: Collection[str]) -> None:
        """Be in more of them, for apps that come later, too. Raises OSError, CgroupError."""
        before = self.directories
        self._choose(without)
        lock = Lock(self.layout, exclusive=False)
        try:
            for directory in self.directories:
                if directory not in before:
                    self._alive.append(_make_held(directory))
        finally:
            lock.release()
        self.directories = tuple(dict.fromkeys((*before, *self.directories)))

    def create(self) -> None:
        """Make the pod's directories (and on v2 pass the controllers down), and hold them (see `leftovers`).

        Raises OSError, CgroupError.
        """
        if self.layout.version == 2:
            os.makedirs(self.layout.roots[0], exist_ok=True)
        lock = Lock(self.layout, exclusive=False)
        try:
            for directory in self.directories:
                self._alive.append(_make_held(directory))
        finally:
            lock.release()
        if self.layout.version == 2:
            _ask_above(os.path.dirname(self.layout.roots[0]))
            for directory in (self.layout.roots[0], self.directories[0]):
                _delegate(directory)
            _mkdir(os.path.join(self.directories[0], INIT_LEAF))

    def create_app(self, app: str, limits: Limits) -> None:
        """Make the app's directories and set its limits; raises CgroupError when one cannot be enforced."""
        self._apps.add(app)
        for directory in self.directories:
            _mkdir(os.path.join(directory, app))
        self.limit(limits, app)

    def limit(self, limits: Limits, app: str = "") -> None:
        """Set the limits of the app (of the pod without `app`); raises CgroupError when one cannot be enforced."""
        for controller, file, value in self.writes(limits):
            root = self.layout.base.get(controller if self.layout.version == 1 else "")
            path = os.path.join(root or "", self.name, app, file)
            if root is None or not os.path.exists(path):
                raise CgroupError(
                    f"limit {file}={value}: the cgroup controller {controller} is not available here"
                )
            if file == _V1_MEMORY:
                _let_swap(path, int(value))
            _set(path, value)
        for controller, file, value in further_writes(self.layout.version, limits, of_app=bool(app)):
            root = self.layout.base.get(controller if self.layout.version == 1 else "")
            path = os.path.join(root or "", self.name, app, file)
            if root is not None and os.path.exists(path):
                _set(path, value)

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
        return tuple(os.path.join(directory, app, self._members) for directory in self.directories)

    def oom_kills(self, app: str) -> int:
        """How many of the app's processes the kernel has killed for memory so far."""
        root = self.layout.base.get("memory" if self.layout.version == 1 else "")
        if root is None:
            return 0
        file = "memory.oom_control" if self.layout.version == 1 else "memory.events"
        return _counter(os.path.join(root, self.name, app, file), "oom_kill")

    def kill(self, app: str = "") -> bool:
        """SIGKILL every process of the app (of the pod without `app`); True when there was none left."""
        return kill_tree(os.path.join(self.kill_directory(), app), self.layout.version)

    def kill_directory(self) -> str:
        """The pod's directory in the hierarchy that killing works on (the freezer's, if there is one)."""
        root = self.layout.base.get("freezer")
        return os.path.join(root, self.name) if root else self.directories[0]

    def remove(self, app: str = "") -> bool:
        """Remove the directories of the app (of the pod); False when one is still in use: try again soon."""
        names = [app] if app else [*self._apps, ""]
        gone = [remove_tree(os.path.join(place, name)) for name in names for place in self.directories]
        if all(gone) and not app:
            while self._alive:
                os.close(self._alive.pop())
        return all(gone)


def kill_tree(directory: str, version: int) -> bool:
    """SIGKILL every process in the cgroup `directory` and below; True when there was none."""
    if version == 2:
        if not any(_pids(directory)):
            return True
        try:
            write(os.path.join(directory, "cgroup.kill"), "1")
            return False
        except FileNotFoundError:
            pass  # Linux < 5.14: one by one
    if not any(_pids(directory)):
        return True
    # A frozen fork bomb cannot fork away from its killer; in v1 the signals act when it is thawed.
    file, freeze, thaw = (
        ("freezer.state", "FROZEN", "THAWED") if version == 1 else ("cgroup.freeze", "1", "0")
    )
    state = os.path.join(directory, file)
    frozen = os.path.exists(state)
    if frozen:
        write(state, freeze)
    try:
        for pid in _pids(directory):
            if pid > 0:  # 0: a process of a pid namespace that is not ours to see
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it was faster
    finally:
        if frozen:
            write(state, thaw)
    return False


def remove_tree(directory: str) -> bool:
    """rmdir a cgroup and the ones below; True when it is gone, False when the kernel still holds one."""
    try:
        os.rmdir(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    try:
        names = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return True
    below = [remove_tree(path) for path in names]
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return all(below)


class Lock:
    """Holds off `leftovers` (shared) or creators of pods (exclusive) in every hierarchy, until it is released.

    For as long as it takes to make directories, or to list them: launchers that share a cgroup wait for it. Raises
    CgroupError when it cannot be had in `seconds`.
    """

    def __init__(self, layout: Layout, *, exclusive: bool, seconds: float = _LOCK_SECONDS) -> None:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        deadline = time.monotonic() + seconds
        self._fds: list[int] = []
        try:
            for root in layout.roots:
                self._fds.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                while not _locked(self._fds[-1], kind):
                    if time.monotonic() > deadline:
                        raise CgroupError(f"another executor has the lock of {root} for {seconds:.0f} s now")
                    time.sleep(0.001)
        except (OSError, CgroupError):
            self.release()
            raise

    def release(self) -> None:
        """Let go; idempotent."""
        while self._fds:
            os.close(self._fds.pop())


def leftovers(layout: Layout) -> dict[str, int]:
    """Pods' directories that no launcher holds any more, for theirs died; each with a descriptor that holds it now.

    The hold is a lock of the file system, for what is in a cgroup shows only to whoever sees its pid namespace.
    In every hierarchy, because executors may share some and not others (an agent nests only what it limits).
    Call it under the lock; whoever makes a pod of the same name then waits until the descriptor is closed.
    """
    found: dict[str, int] = {}
    for root in layout.roots:
        for entry in os.scandir(root):
            if entry.name.startswith(PREFIX):
                fd = hold_leftover(entry.path)
                if fd >= 0:
                    found[entry.path] = fd
    return found


def hold_leftover(directory: str) -> int:
    """The descriptor that holds a pod's directory from now on; -1 when a launcher has it, or it is gone."""
    return _hold(directory, fcntl.LOCK_EX)


def _make_held(directory: str) -> int:
    """Make a pod's directory; the descriptor that holds it. One that is being collected is made when it has gone."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        _mkdir(directory)
        fd = _hold(directory, fcntl.LOCK_SH)
        if fd >= 0:
            return fd
        if time.monotonic() > deadline:
            raise CgroupError(f"{directory} is there, and another executor has it")
        time.sleep(0.001)


def _hold(directory: str, kind: int) -> int:
    """A descriptor with the lock of a directory; -1 when somebody else has it, or it has just been removed."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        if _locked(fd, kind) and os.path.samestat(os.fstat(fd), os.stat(directory)):
            return fd
    except FileNotFoundError:
        pass
    os.close(fd)
    return -1


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(path: str, value: str) -> None:
    """One write(2), as cgroup files want it; never creates the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _set(path: str, value: str) -> None:
    try:
        write(path, value)
    except OSError as error:
        raise CgroupError(f"write {value} to {path}: {os.strerror(error.errno or 0)}") from None


def _let_swap(path: str, limit: int) -> None:
    """A limit of memory can be no higher than that of memory and swap, which an earlier one may have left here."""
    both = path.replace("memory.limit", "memory.memsw.limit")
    if int(_read(both) or limit) < limit:
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


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass  # made with the pod, or kept since the app's last run


def _counter(path: str, key: str) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _pids(directory: str) -> Iterator[int]:
    """Process ids in a cgroup and all below."""
    yield from map(int, _read(os.path.join(directory, "cgroup.procs")).split())
    for path in _below_it(directory):
        yield from _pids(path)


def _below_it(directory: str) -> list[str]:
    """The cgroups directly in one: as many as it has links more than two (stat(2), as everywhere but in btrfs)."""
    try:
        if os.stat(directory).st_nlink == _NO_DIRECTORIES:
            return []
        return [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _read(path: str) -> str:
    """A cgroup file; nothing for one whose cgroup goes away meanwhile (ENODEV between open and read)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(fd, _PAGES):
                parts.append(part)
            return b"".join(parts).decode("ascii")
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return ""
