"""Runs inside a pod: tells all that can be told there, as JSON.

Whatever a program without rights can ask about the namespaces it is in, about the first process of its pod, and about
what all containers of a pod share; not what differs between any two pods, times above all.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import struct

from kernel import CREATE, PRIVATE, SHARED, call


def look():
    told = {}
    for part in (processes, identity, system, interprocess, shared, network, mounts, limits):
        part(told)
    return told


def _try(function):
    try:
        return function()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def _text(path):
    with open(path, "rb") as file:
        return file.read().decode(errors="replace")


VARYING_STATUS = ("Vm", "Rss", "Hugetlb", "voluntary", "nonvoluntary", "SigQ", "Mems", "Cpus", "Threads")


def processes(told):
    told["pid"] = os.getpid()
    told["parent"] = os.getppid()
    told["pids"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    told["last pid"] = _text("/proc/loadavg").split()[-1]
    for name in (
        "limits",
        "cgroup",
        "oom_score_adj",
        "comm",
        "cmdline",
        "uid_map",
        "projid_map",
        "timerslack_ns",
    ):
        told[f"1/{name}"] = _try(lambda name=name: _text(f"/proc/1/{name}"))
    status = _try(lambda: _text("/proc/1/status"))
    told["1/status"] = [line for line in status.splitlines() if not line.startswith(VARYING_STATUS)]
    fields = _try(lambda: _text("/proc/1/stat").rpartition(")")[2].split())
    told["1/stat"] = [fields[n] for n in (0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 34, 35, 37, 38)]
    told["1/priority"] = _try(lambda: os.getpriority(os.PRIO_PROCESS, 1))
    told["1/policy"] = _try(lambda: os.sched_getscheduler(1))
    told["1/affinity"] = _try(lambda: sorted(os.sched_getaffinity(1)))
    told["1/ioprio"] = _try(lambda: call("ioprio_get", 1, 1))
    told["1/rlimits"] = [_try(lambda n=n: resource.prlimit(1, n)) for n in range(16)]
    told["1/session"] = [_try(lambda: os.getsid(1)), _try(lambda: os.getpgid(1))]


def identity(told):
    told["who"] = [os.getresuid(), os.getresgid(), os.getgroups()]
    for name in ("uid_map", "gid_map", "projid_map", "setgroups"):
        told[name] = [line.split()[0::2] for line in _text(f"/proc/self/{name}").splitlines()]
    told["names"] = list(os.uname())
    told["descriptors"] = sorted(os.listdir("/proc/self/fd"))


def system(told):
    """The settings of namespaces; others are the whole machine's."""
    for place in ("net", "user", "fs/mqueue", "kernel"):
        for directory, _, files in os.walk(f"/proc/sys/{place}"):
            if place == "kernel":
                files = [
                    name
                    for name in files
                    if name.startswith(("shm", "sem", "msg", "auto_msg", "pid_max", "cap"))
                ]
            for path in (f"{directory}/{name}" for name in files):
                told[path] = _try(lambda path=path: _text(path))
    told["last pid of the namespace"] = _try(lambda: _text("/proc/sys/kernel/ns_last_pid"))


def interprocess(told):
    for name in ("shm", "sem", "msg"):
        told[f"sysvipc/{name}"] = _try(lambda name=name: _text(f"/proc/sysvipc/{name}"))
    told["segment"] = call("shmget", PRIVATE, 4096, CREATE | 0o600)
    told["semaphore"] = call("semget", PRIVATE, 1, CREATE | 0o600)
    told["messages"] = call("msgget", PRIVATE, CREATE | 0o600)
    told["segment again"] = _try(lambda: call("shmget", 4711, 0, 0))


def _of(path):
    info = os.stat(path)
    found = [oct(info.st_mode), info.st_uid, info.st_gid, info.st_nlink, info.st_size, info.st_blocks]
    found += [sorted(_try(lambda: os.listxattr(path)))]
    found += [_try(lambda: _flags(path))]
    return found


def _flags(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return struct.unpack("l", fcntl.ioctl(fd, 0x80086601, bytes(8)))[0]
    finally:
        os.close(fd)


def shared(told):
    for place in SHARED:
        told[place] = sorted(os.listdir(place))
        told[f"{place} is"] = _of(place)
        info = os.statvfs(place)
        told[f"{place} has"] = [info.f_blocks, info.f_bfree, info.f_files, info.f_ffree]
        times = os.stat(place)
        told[f"{place} was changed"] = times.st_ctime_ns != times.st_mtime_ns
    os.mknod("/dev/shm/mine")
    told["number in shm"] = os.stat("/dev/shm/mine").st_ino
    call("mq_open", b"mine", os.O_CREAT | os.O_RDWR, 0o600, None)
    for path in (
        "",
        "dev",
        "dev/pts",
        "dev/null",
        "dev/console",
        "etc",
        "etc/hosts",
        "etc/hostname",
        "tmp",
        "sys",
    ):
        told[f"/{path} is"] = _of(f"/{path}")
    told["/dev"] = sorted(os.listdir("/dev"))
    told["/"] = sorted(os.listdir("/"))
    told["/etc/hosts"] = _text("/etc/hosts")
    told["terminal"] = os.ttyname(os.openpty()[1])


OF_THE_MACHINE = (
    "stat",
    "protocols",
    "ptype",
    "softnet_stat",
    "unix",
    "netlink",
    "packet",
    "xfrm_stat",
    "connector",
)


def network(told):
    for name in sorted(os.listdir("/proc/self/net")):
        path = f"/proc/self/net/{name}"
        if name not in OF_THE_MACHINE and os.path.isfile(path):
            told[path] = _try(lambda path=path: _text(path))
    for name in ("sockstat", "sockstat6"):  # how much memory all sockets of the machine have is there, too
        lines = told[f"/proc/self/net/{name}"].splitlines()
        told[f"/proc/self/net/{name}"] = [line.partition(" mem ")[0] for line in lines if "TCP" not in line]
    lo = "/sys/class/net/lo"
    told["lo"] = {
        name: [_try(lambda name=name: _text(f"{lo}/{name}")), _of(f"{lo}/{name}")[:3]]
        for name in sorted(os.listdir(lo))
        if os.path.isfile(f"{lo}/{name}")
    }


def mounts(told):
    lines = [line.split(" - ") for line in _text("/proc/self/mountinfo").splitlines()]
    told["mounts"] = [[*left.split()[4:6], right.split()[0]] for left, right in lines]
    request, answer = struct.pack("IIQQQ", 32, 0, 0xFFFFFFFFFFFFFFFF, 0, 0), ctypes.create_string_buffer(8000)
    told["listmount"] = _try(lambda: call("listmount", request, answer, 1000, 0))


def limits(told):
    told["rlimits"] = [resource.getrlimit(n) for n in range(16)]
    told["priority"] = os.getpriority(os.PRIO_PROCESS, 0)
    told["policy"] = os.sched_getscheduler(0)
    told["blocked"] = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    told["ignored"] = [n for n in range(1, 65) if _try(lambda n=n: signal.getsignal(n)) == signal.SIG_IGN]
    status = _text("/proc/self/status").splitlines()
    kept = ("Cap", "NoNew", "Seccomp", "SigPnd", "SigBlk", "SigIgn", "SigCgt", "ShdPnd")
    told["status"] = [line for line in status if line.startswith(kept)]
    told["watches"] = _how_many(lambda: call("inotify_init1", 0), 300)


def _how_many(make, most):
    for number in range(most):
        try:
            make()
        except OSError:
            return number
    return most


print(json.dumps(look()), flush=True)
os._exit(0)
