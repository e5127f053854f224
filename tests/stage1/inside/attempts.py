"""Runs inside a pod and tries to get out of it, or at its neighbours; prints what became of each attempt, as JSON.

Each attempt is a function that returns when it has succeeded and raises when it was refused. It is made so that success
harms nobody: files are opened for writing and not written, calls get values that change nothing. Arguments: a file
of the host that no pod may see, the device number of the host's disk, the abstract socket of a process of the host; the
names of the attempts to make, if not all.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import struct
import sys
import time

SECRET, DISK, LISTENER, *ONLY = sys.argv[1:]
LIBC = ctypes.CDLL(None, use_errno=True)
NR = {
    "reboot": 169, "kexec_load": 246, "init_module": 175, "delete_module": 176, "clock_settime": 227, "swapon": 167,
    "iopl": 172, "mount": 165, "umount2": 166, "unshare": 272, "setns": 308, "ptrace": 101, "keyctl": 250, "bpf": 321,
    "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "open_by_handle_at": 304, "syslog": 103,
    "acct": 163, "sethostname": 170, "chroot": 161, "process_vm_readv": 310, "adjtimex": 159, "fsopen": 430,
    "open_tree": 428, "add_key": 248, "move_pages": 279, "kcmp": 312, "shmget": 29, "quotactl": 179,
}  # fmt: skip
NEWNS, NEWUSER, NEWCGROUP = 0x20000, 0x10000000, 0x02000000
REMOUNT_BIND_RW = 32 | 4096
ATTEMPTS = {}


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def call(name, *arguments):
    made = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = LIBC.syscall(ctypes.c_long(NR[name]), *made)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def mount(source, target, kind, flags=0, data=None):
    call("mount", source.encode(), target.encode(), kind.encode(), flags, data)


def can_write(path):
    os.close(os.open(path, os.O_WRONLY))


def can_read(path):
    with open(path, "rb") as file:
        if not file.read(64):
            raise OSError(errno.ENODATA, "empty")


def own_users(*more):
    """Become root of a user namespace of one's own, with these namespaces in it."""
    flags, uid = NEWUSER, os.getuid()
    for flag in more:
        flags |= flag
    call("unshare", flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {os.getgid()} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def device(directory, kind, number):
    path = f"{directory}/device{os.getpid()}"
    os.mknod(path, kind | 0o600, number)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    finally:
        os.unlink(path)


# -- devices: what a node in the file system would open

for where, directory in {
    "root": "/tmp",
    "dev": "/dev",
    "shm": "/dev/shm",
    "volume": "/volume",
    "memory": "/memory",
}.items():
    ATTEMPTS[f"disk_in_{where}"] = lambda directory=directory: device(directory, 0o060000, int(DISK))
    ATTEMPTS[f"memory_in_{where}"] = lambda directory=directory: device(directory, 0o020000, os.makedev(1, 1))


@attempt
def kernel_log_device():
    device("/tmp", 0o020000, os.makedev(1, 11))


@attempt
def kvm_device():
    device("/tmp", 0o020000, os.makedev(10, 232))


@attempt
def disk_on_a_file_system_of_its_own():
    own_users(NEWNS)
    mount("x", "/tmp", "tmpfs")
    device("/tmp", 0o060000, int(DISK))


# -- /proc and /sys

for name in (
    "sysrq-trigger", "sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/kernel/panic", "sys/vm/drop_caches",
    "sys/kernel/yama/ptrace_scope", "sys/fs/binfmt_misc/register", "irq/default_smp_affinity", "1/mem",
    "1/oom_score_adj",
):  # fmt: skip
    ATTEMPTS[f"write_proc_{name}"] = lambda name=name: can_write(f"/proc/{name}")
for name in ("kcore", "kallsyms", "keys", "timer_list", "sched_debug", "interrupts", "1/environ", "1/mem"):
    ATTEMPTS[f"read_proc_{name}"] = lambda name=name: can_read(f"/proc/{name}")
for name in (
    "kernel/uevent_helper",
    "power/state",
    "kernel/mm/transparent_hugepage/enabled",
    "block/vda/uevent",
):
    ATTEMPTS[f"write_sys_{name}"] = lambda name=name: can_write(f"/sys/{name}")


@attempt
def remount_proc_sys():
    mount("none", "/proc/sys", "", REMOUNT_BIND_RW)
    can_write("/proc/sys/kernel/core_pattern")


@attempt
def uncover_proc():
    call("umount2", b"/proc/sysrq-trigger", 2)
    can_write("/proc/sysrq-trigger")


@attempt
def another_proc():
    mount("proc", "/tmp", "proc")
    can_write("/tmp/sys/kernel/core_pattern")


@attempt
def another_proc_of_a_user_namespace():
    own_users(NEWNS)
    mount("proc", "/tmp", "proc")
    can_write("/tmp/sys/kernel/core_pattern")


@attempt
def lower_its_own_oom_score():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")


@attempt
def files_of_init():
    if os.listdir("/proc/1/root/etc"):
        return


@attempt
def namespaces_of_init():
    fd = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    call("setns", fd, NEWNS)


@attempt
def program_of_init():
    can_write("/proc/1/exe")


@attempt
def host_file_through_proc():
    for process in filter(str.isdigit, os.listdir("/proc")):
        for door in ("root", "cwd", "fd/0", "fd/1", "fd/3"):
            if os.path.exists(f"/proc/{process}/{door}{SECRET}"):
                return
    raise OSError(errno.ENOENT, "nowhere")


# -- file systems


@attempt
def leave_the_root_by_chroot():
    os.makedirs("/tmp/cage", exist_ok=True)
    call("chroot", b"/tmp/cage")
    for _ in range(64):
        os.chdir("..")
    call("chroot", b".")
    os.close(os.open(SECRET, os.O_RDONLY))


@attempt
def host_file_by_handle():
    handle = struct.pack("Ii8s", 8, 1, struct.pack("II", 2, 0))  # inode 2: the root of an ext file system
    call("open_by_handle_at", os.open("/volume", os.O_RDONLY), handle, os.O_RDONLY)


@attempt
def read_only_volume():
    can_write("/reading/file")


@attempt
def read_only_volume_remounted():
    mount("none", "/reading", "", REMOUNT_BIND_RW)
    can_write("/reading/file")


@attempt
def mount_a_disk():
    os.mknod("/tmp/vda", 0o060600, int(DISK))
    try:
        os.mkdir("/tmp/disk")
        mount("/tmp/vda", "/tmp/disk", "ext4", 1)
    finally:
        os.unlink("/tmp/vda")


@attempt
def mount_anything():
    mount("x", "/tmp", "tmpfs")


@attempt
def mount_anything_of_its_own():
    own_users(NEWNS)
    mount("x", "/tmp", "tmpfs")


@attempt
def mount_by_the_new_calls():
    call("fsopen", b"tmpfs", 0)


@attempt
def copy_of_the_root_s_mount():
    call("open_tree", -100, b"/", 1)


@attempt
def release_agent():
    try:
        call("unshare", NEWCGROUP)
    except OSError:
        pass
    mount("cgroup", "/tmp", "cgroup", 0, b"memory")
    can_write("/tmp/release_agent")


@attempt
def cgroup_of_a_user_namespace():
    own_users(NEWNS, NEWCGROUP)
    mount("cgroup", "/tmp", "cgroup", 0, b"memory")
    can_write("/tmp/memory.limit_in_bytes")


# -- what belongs to the machine


@attempt
def reboot():
    call("reboot", 0xFEE1DEAD, 1, 0, 0)  # the second magic is wrong: whoever may gets EINVAL


@attempt
def kexec():
    call("kexec_load", 0, 0, 0, 0)


@attempt
def load_a_module():
    call("init_module", b"no module", 9, b"")


@attempt
def unload_a_module():
    call("delete_module", b"no_such_module", 0x800)


@attempt
def set_the_clock():
    now = time.time_ns()
    call("clock_settime", 0, struct.pack("qq", now // 10**9, now % 10**9))


@attempt
def steer_the_clock():
    call("adjtimex", struct.pack("I", 0x4000) + bytes(204))  # ADJ_TICK of 0: EINVAL for whoever may


@attempt
def swap():
    call("swapon", b"/no/such/file", 0)


@attempt
def accounting():
    call("acct", b"/no/such/file")


@attempt
def ports_of_the_machine():
    call("iopl", 3)


@attempt
def kernel_log():
    call("syslog", 3, ctypes.create_string_buffer(64), 64)


@attempt
def name_of_the_machine():
    call("sethostname", b"taken", 5)


@attempt
def real_time_priority():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))


@attempt
def higher_priority():
    os.setpriority(os.PRIO_PROCESS, 0, -20)


@attempt
def higher_limits():
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 21, 1 << 21))


# -- other processes


@attempt
def kill_init():
    os.kill(1, signal.SIGKILL)


@attempt
def trace_init():
    call("ptrace", 16, 1, 0, 0)
    os.waitpid(1, 0x40000000)


@attempt
def memory_of_init():
    data = ctypes.create_string_buffer(8)
    mine = struct.pack("QQ", ctypes.addressof(data), 8)
    call("process_vm_readv", 1, mine, 1, struct.pack("QQ", 0x400000, 8), 1, 0)


@attempt
def pages_of_init():
    call("move_pages", 1, 0, 0, 0, 0, 0)


# -- doors of the kernel that have been ways out


@attempt
def keyring_of_the_session():
    call("keyctl", 0, -3, 0)


@attempt
def a_key():
    call("add_key", b"user", b"gantry-escape", b"x", 1, -4)


for name, arguments in {
    "bpf": (0, struct.pack("IIII", 2, 4, 4, 1) + bytes(48), 64),
    "perf_event_open": (bytes(128), 0, -1, -1, 0),
    "userfaultfd": (0,),
    "io_uring_setup": (1, bytes(120)),
    "unshare": (NEWUSER,),
    "kcmp": (1, os.getpid(), 1, 0, 0),
    "quotactl": (0x80000100, b"/no/such/file", 0, 0),
}.items():
    ATTEMPTS[name] = lambda name=name, arguments=arguments: call(name, *arguments)


@attempt
def socket_to_the_hypervisor():
    socket.socket(40, socket.SOCK_STREAM).close()


@attempt
def abstract_socket_of_the_host():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + LISTENER)


@attempt
def shared_memory_of_the_host():
    call("shmget", 0x67616E74, 0, 0)


def outcome(function):
    """In a process of its own, as some attempts cost the one that makes them its life."""
    ready, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "done"
        try:
            signal.alarm(10)
            function()
        except OSError as error:
            text = errno.errorcode.get(error.errno, str(error))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
            text = f"{type(error).__name__}: {error}"
        os.write(report, text.encode())
        os._exit(0)
    os.close(report)
    with open(ready) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    return text or f"signal {os.WTERMSIG(status)}"


print(
    json.dumps({name: outcome(function) for name, function in ATTEMPTS.items() if name in ONLY or not ONLY})
)
