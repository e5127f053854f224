"""Start of the launcher: `python -m executor.stage1 --fd N --parent PID` (by executor/pods/launcher.py).

In two steps. The first makes a private mount namespace, frees it of what no pod needs (a namespace is copied
mount by mount for every app) and binds the Python interpreter read-only onto itself; the second, executed
from that bind, serves. A container that gets hold of /proc/PID/exe cannot open it for writing (CVE-2019-5736).
"""

import os
import signal
import socket
import sys
from typing import Final

from executor.stage1 import caps, cgroups, channel, syscalls
from executor.stage1.launcher import Launcher, collect
from executor.stage1.ops import StageError

_DISPENSABLE: Final = (
    "autofs binfmt_misc bpf configfs debugfs efivarfs fusectl hugetlbfs mqueue nsfs pstore rpc_pipefs "
    "securityfs tracefs"
)


def main(argv: list[str]) -> int:
    """argv: pairs of --fd, --parent, --spares, --lists and (second step) --host with integer values; --points PATH,
    --memory CGROUP."""
    given = dict(zip(argv[::2], argv[1::2], strict=True))
    points, memory = given.pop("--points", ""), given.pop("--memory", "")
    options = {name: int(value) for name, value in given.items()}
    control = socket.socket(fileno=options["--fd"])
    control.set_inheritable(False)
    try:
        _follow(options["--parent"])
        if "--host" not in options:
            _check_machine()
            if memory:
                cgroups.write(f"{memory}/cgroup.procs", "0")
            host = os.open("/proc/self/ns/mnt", os.O_RDONLY)
            os.set_inheritable(host, True)
            _lean_namespace()
            control.set_inheritable(True)
            os.execv(os.path.realpath(sys.executable), [*_command(), *argv, "--host", str(host)])
        os.set_inheritable(options["--host"], False)
        os.umask(0o022)
        layout = _layout()
        collect(layout)
        lists = bool(options.get("--lists", 1))
        spares = options.get("--spares", 1)
        launcher = Launcher(control, layout, options["--host"], spares, lists=lists, points=points)
    except (OSError, StageError, cgroups.CgroupError) as error:
        try:
            channel.send_json(control, {"ready": False, "error": str(error)})
        except ConnectionError:
            pass  # it is the executor that has gone
        return 1
    syscalls.set_process_name("gantry-launcher")
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    launcher.run()
    return 0


def _command() -> list[str]:
    """How this program was started, up to its own arguments."""
    count = len(sys.argv) - 1
    return sys.orig_argv[: len(sys.orig_argv) - count] if count else list(sys.orig_argv)


def _follow(parent: int) -> None:
    """End when the executor does. The parent may have died before the call: then nobody would tell us."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise StageError("the executor has gone")


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise StageError("stage1 needs root: run the executor as root")
    if not syscalls.SUPPORTED_MACHINE:
        raise StageError(
            f"stage1 does not know the machine {os.uname().machine}: x86_64 or aarch64 is needed"
        )
    needed = caps.mask(
        ("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL")
    )
    missing = [name for name in caps.NAMES if (needed & ~caps.held()) >> caps.NUMBERS[name] & 1]
    if missing:
        raise StageError(f"stage1 lacks {', '.join(missing)}: run the executor with all capabilities")
    try:
        fd = os.open("/", os.O_PATH)
        syscalls.mount_setattr(fd, 0, recursive=False)
        os.close(fd)
    except OSError as error:
        raise StageError(f"stage1 needs Linux 5.12 or newer (mount_setattr: {error.strerror})") from None
    with open("/proc/filesystems", encoding="ascii") as file:
        if "overlay" not in file.read().split():
            raise StageError("the kernel has no overlay file system: load it with `modprobe overlay`")


def _layout() -> cgroups.Layout:
    with (
        open("/proc/self/cgroup", encoding="utf-8") as own,
        open("/proc/self/mountinfo", encoding="utf-8") as mounts,
    ):
        return cgroups.detect(own.read(), mounts.read())


def _lean_namespace() -> None:
    """Host mounts that come or go still do so here (slave); nothing of ours reaches the host."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    dispensable = _DISPENSABLE.split()
    for line in reversed(lines):
        left, _, right = line.partition(" - ")
        if right.split()[0] in dispensable:
            try:
                syscalls.umount(_unescape(left.split()[4]))
            except OSError:
                pass  # covered by, or already gone with, another one
    flags = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
    # In a bundle (shared/bundle) the executable is a script, and what runs is the loader that it names.
    for program in sorted({os.path.realpath(sys.executable), os.path.realpath("/proc/self/exe")}):
        syscalls.mount(program, program, None, syscalls.MS_BIND)
        syscalls.mount("none", program, None, flags)


def _unescape(path: str) -> str:
    """Spaces and the like are octal in mountinfo (proc(5))."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        path = path.replace(code, chr(int(code[1:], 8)))
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
