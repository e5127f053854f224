"""The machine's pid 1: makes a Linux of what the kernel has unpacked, then starts the launcher and the agent.

No shell, no udev, no program but this interpreter. The kernel starts it as `/init`, its streams are the console.
"""

import errno
import os
import select
import signal
import socket
import sys
import time
from typing import Final

from executor.kvm.guest import agent, waking
from executor.stage1 import cgroups, channel, children, launcher, ops, syscalls
from executor.stage1.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
)

MODULES: Final = "/modules"
SHARE: Final = "/share"
PODS: Final = "/pods"
TAG: Final = "share"
_PORTS: Final = "/sys/class/virtio-ports"
_PORT_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.003
_MS_MOVE: Final = 8192
_SYSTEM: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC


def main() -> None:
    """Never returns: the machine ends with it."""
    try:
        _prepare()
        ours, theirs = channel.pair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os._exit(_launch(theirs))
        theirs.close()
        said = None
        if waking.is_template():
            said, _ = channel.receive_json(ours)
            waking.become_template()
        port = _open_port()
        waking.look_for_memory()
        _mount_share()
        agent.Agent(port, ours, pid, PODS, _load_network).run(said)
    except BaseException:  # noqa: BLE001 - the last frame there is: said on the console, which the host keeps
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        syscalls.restart()


def _prepare() -> None:
    syscalls.mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID)
    _load_modules("order")
    if waking.is_template():
        _load_modules("template")
    syscalls.mount("proc", "/proc", "proc", _SYSTEM)
    syscalls.mount("sysfs", "/sys", "sysfs", _SYSTEM)
    syscalls.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", _SYSTEM)
    cgroups.write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids")
    # How much memory there is is the pod's limit, and whoever takes more is killed for it, as in a cgroup.
    cgroups.write("/proc/sys/vm/overcommit_memory", "1")
    _leave_first_root()
    os.makedirs("/tmp", exist_ok=True)
    syscalls.mount(
        "none", "/", None, MS_REC | MS_SHARED
    )  # what is mounted from now on the launcher sees, too
    syscalls.mount("tmpfs", PODS, "tmpfs", MS_NOSUID, "mode=755,size=100%")
    syscalls.mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    syscalls.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")


def _load_modules(order: str) -> None:
    """What a list names, in its order."""
    with open(f"{MODULES}/{order}", encoding="ascii") as file:
        for name in file.read().split():
            _load(f"{MODULES}/{name}")


def _load(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.load_module(fd)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return  # a template has it already
        raise OSError(error.errno, f"load {path}: {error.strerror}") from None
    finally:
        os.close(fd)


def _load_network() -> None:
    """What network cards need."""
    _load_modules("network")
    if waking.is_template():
        waking.find_others()


def _leave_first_root() -> None:
    """pivot_root(2) does not work on the first root; on a mount that covers it, it does. What is in it stays."""
    root = "/root"
    syscalls.mount("/", root, None, MS_BIND | MS_REC)
    os.chdir(root)
    syscalls.mount(root, "/", None, _MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def _open_port() -> int:
    """The wire to the host: the only port there is. The host first says that it is there, then that it is open."""
    deadline = time.monotonic() + _PORT_SECONDS
    port = -1
    while True:
        if port < 0 and waking.is_template():
            waking.find_first()
        if port < 0 and (names := os.listdir(_PORTS)):
            port = _try_port(f"/dev/{names[0]}")
        if port >= 0 and not _hung_up(port):
            return port
        if time.monotonic() > deadline:
            raise FileNotFoundError("the host has not given this machine a port, or has not opened it")
        time.sleep(_LOOK_SECONDS)


def _try_port(path: str) -> int:
    """-1 while it is being made: its name comes before it can be opened (drivers/char/virtio_console.c, add_port)."""
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO):
            raise
    return -1


def _mount_share() -> None:
    """The tree of the host: what the pod may see of it."""
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        if waking.is_template():
            waking.find_share()
        try:
            syscalls.mount(TAG, SHARE, "virtiofs", MS_NOSUID | MS_NODEV)
            return
        except OSError:
            if not waking.is_template() or time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_SECONDS)


def _hung_up(port: int) -> bool:
    poll = select.poll()
    poll.register(port, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _launch(control: socket.socket) -> int:
    """The launcher, in a mount namespace of its own, whose interpreter cannot be written (executor/stage1/__main__)."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    cgroups.write("/proc/self/oom_score_adj", "-1000")
    try:
        host = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, MS_REC | MS_SLAVE)
        syscalls.mount("/usr", "/usr", None, MS_BIND)
        syscalls.mount("none", "/usr", None, MS_BIND | MS_REMOUNT | MS_RDONLY)
        with (
            open("/proc/self/cgroup", encoding="utf-8") as own,
            open("/proc/self/mountinfo", encoding="utf-8") as mounts,
        ):
            layout = cgroups.detect(own.read(), mounts.read())
        for root in layout.roots:
            os.makedirs(root, exist_ok=True)
        pod = children.Kind("linux", host_network=False, users=False)
        made = launcher.Launcher(control, layout, host, 1 if waking.is_template() else 0, only=pod)
    except (OSError, ops.StageError, cgroups.CgroupError) as error:
        channel.send_json(control, {"ready": False, "error": str(error)})
        return 1
    os.umask(0o022)
    syscalls.set_process_name("gantry-launcher")
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    made.run()
    return 0
