"""Runs inside a pod: leaves what its arguments name for the next one, in every way that may be of use."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import time

from kernel import CREATE, LIBC, PRIVATE, REMOVE, SHARED, call

CLONE_PARENT = 0x8000
WAYS = {}


def way(function):
    WAYS[function.__name__] = function
    return function


def child(work, *, flags=signal.SIGCHLD):
    """A process of one's own that is not waited for."""
    pid = call("clone", int(flags), 0, 0, 0, 0)
    if pid == 0:
        try:
            work()
        finally:
            LIBC._exit(0)
    return pid


# -- what might be left


@way
def nothing():
    pass


@way
def segment():
    call("shmget", 4711, 8192, CREATE | 0o666)


@way
def segment_that_is_going():
    """Marked to be destroyed, and attached by whoever is killed with the pod."""
    number = call("shmget", PRIVATE, 8192, CREATE | 0o600)
    call("shmat", number, None, 0)
    call("shmctl", number, REMOVE, None)
    child(signal.pause)


@way
def segments_that_went():
    for _ in range(3):
        call("shmctl", call("shmget", PRIVATE, 4096, CREATE | 0o600), REMOVE, None)


@way
def semaphores():
    number = call("semget", 4711, 3, CREATE | 0o666)
    call("semop", number, struct.pack("HhH", 0, 1, 0x1000), 1)  # SEM_UNDO


@way
def semaphores_that_went():
    call("semctl", call("semget", PRIVATE, 1, CREATE | 0o600), 0, REMOVE)


@way
def messages():
    call("msgsnd", call("msgget", 4711, CREATE | 0o666), struct.pack("l8s", 1, b"for you!"), 8, 0)


@way
def messages_that_went():
    call("msgctl", call("msgget", PRIVATE, CREATE | 0o600), REMOVE, None)


@way
def queue():
    fd = call("mq_open", b"trace", os.O_CREAT | os.O_RDWR, 0o666, None)
    call("mq_timedsend", fd, b"for you", 7, 0, None)


@way
def queue_without_a_name():
    call("mq_open", b"trace", os.O_CREAT | os.O_RDWR, 0o666, None)
    call("mq_unlink", b"trace")
    child(signal.pause)


@way
def file_in_shm():
    with open("/dev/shm/trace", "w") as file:
        file.write("for you")


@way
def file_in_shm_that_went():
    os.close(os.open("/dev/shm/trace", os.O_CREAT | os.O_RDWR))
    os.unlink("/dev/shm/trace")


@way
def file_in_shm_without_a_name():
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.posix_fallocate(fd, 0, 32 << 20)
    child(signal.pause)


@way
def full_shm():
    with contextlib.suppress(OSError), open("/dev/shm/full", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


@way
def shm_with_as_many_files_as_it_takes():
    with contextlib.suppress(OSError):
        for number in range(3000):
            os.mknod(f"/dev/shm/{number}")
        for number in range(3000):
            os.unlink(f"/dev/shm/{number}")


for place in SHARED:
    name = place.rpartition("/")[2]
    WAYS[f"mode_of_{name}"] = lambda place=place: os.chmod(place, 0)
    WAYS[f"owner_of_{name}"] = lambda place=place: os.chown(place, 33, 33)
    WAYS[f"times_of_{name}"] = lambda place=place: os.utime(place, (1, 1))
    WAYS[f"same_mode_of_{name}"] = lambda place=place: os.chmod(place, stat.S_IMODE(os.stat(place).st_mode))
    WAYS[f"attribute_of_{name}"] = lambda place=place: os.setxattr(place, "user.trace", b"for you")
    WAYS[f"acl_of_{name}"] = lambda place=place: os.setxattr(place, "system.posix_acl_access", ACL)
    WAYS[f"default_acl_of_{name}"] = lambda place=place: os.setxattr(place, "system.posix_acl_default", ACL)
    WAYS[f"flags_of_{name}"] = lambda place=place: _flag(place)
    WAYS[f"list_of_{name}"] = lambda place=place: os.listdir(place)
    WAYS[f"lock_on_{name}"] = lambda place=place: _lock(place)
    WAYS[f"lease_on_{name}"] = lambda place=place: _watch(place)

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (1, 7, 0xFFFFFFFF),
        (2, 7, 33),
        (4, 7, 0xFFFFFFFF),
        (16, 7, 0xFFFFFFFF),
        (32, 7, 0xFFFFFFFF),
    )
)


def _flag(place):
    """No access times, by chattr."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.ioctl(fd, 0x40086602, struct.pack("l", 0x80))


def _lock(place):
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    child(signal.pause)


def _watch(place):
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.fcntl(fd, 1026, 0x8000003F)  # F_NOTIFY, again and again
    fd = call("inotify_init1", 0)
    call("inotify_add_watch", fd, place.encode(), 0xFFF)
    call("inotify_add_watch", fd, b"/proc/1", 0xFFF)
    child(signal.pause)


@way
def map_of_projects():
    for name in ("projid_map", "setgroups", "uid_map"):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write("0 4711 12\n" if name != "setgroups" else "deny")


@way
def files_of_proc():
    """Of everybody's there, what may be changed of what is shown as one's own."""
    for directory, _, files in os.walk("/proc", followlinks=False):
        if directory.count("/") > 3:
            continue
        for name in files:
            path = f"{directory}/{name}"
            with contextlib.suppress(OSError):
                os.utime(path, (1, 1))
            with contextlib.suppress(OSError):
                os.chmod(path, 0o600)
            with contextlib.suppress(OSError):
                os.chown(path, 33, 33)


@way
def files_of_sys():
    for directory, _, files in os.walk("/sys/class/net/lo/", followlinks=True):
        for name in files:
            path = f"{directory}/{name}"
            for change in (
                lambda path=path: os.chmod(path, 0o666),
                lambda path=path: os.chown(path, 33, 33),
                lambda path=path: _write(path, "1"),
            ):
                with contextlib.suppress(OSError):
                    change()
        if directory.count("/") > 6:
            break


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)


@way
def first_process():
    """Limits, priority, processors, signals of the pod's first process."""
    for change in (
        lambda: resource.prlimit(1, resource.RLIMIT_CORE, (4711, 4711)),
        lambda: resource.prlimit(1, resource.RLIMIT_CPU, (1, 1)),
        lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
        lambda: os.setpriority(os.PRIO_USER, 0, 19),
        lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
        lambda: os.sched_setaffinity(1, {0}),
        lambda: call("ioprio_set", 1, 1, 3 << 13),
        lambda: _write("/proc/1/oom_score_adj", "1000"),
        lambda: _write("/proc/1/comm", "trace"),
        lambda: _write("/proc/1/coredump_filter", "0"),
        lambda: _write("/proc/1/autogroup", "19"),
        lambda: _write("/proc/1/timerslack_ns", "1"),
        lambda: _write("/proc/1/clear_refs", "1"),
    ):
        with contextlib.suppress(OSError):
            change()
    for number in range(1, 65):
        with contextlib.suppress(OSError):
            os.kill(1, number)
        with contextlib.suppress(OSError):
            call("rt_sigqueueinfo", 1, number, struct.pack("iii", number, 0, -1) + bytes(116))


@way
def orphans():
    """Of all kinds: in sessions of their own, without an end signal, deaf, stopped, with dead leaders."""
    for flags in (0, signal.SIGUSR1, signal.SIGCHLD, CLONE_PARENT | signal.SIGCHLD):
        child(_deaf, flags=flags)
    child(lambda: os.kill(os.getpid(), signal.SIGSTOP))
    child(lambda: child(lambda: child(_deaf)))


def _deaf():
    for number in range(1, 65):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.setsid()
    while True:
        time.sleep(100)


@way
def many_processes():
    for _ in range(200):
        child(lambda: None)


@way
def names():
    for name in ("sethostname", "setdomainname"):
        with contextlib.suppress(OSError):
            call(name, b"trace", 5)


@way
def keys():
    for ring in (-1, -2, -3, -4, -5):
        with contextlib.suppress(OSError):
            call("add_key", b"user", b"trace", b"x", 1, ring)
    with contextlib.suppress(OSError):
        call("keyctl", 1, b"trace")


@way
def sockets_of_every_kind():
    for family in range(46):
        for kind in (1, 2, 3, 5):
            with contextlib.suppress(OSError):
                os.dup(socket.socket(family, kind).detach())
    child(signal.pause)


@way
def every_kind_of_socket_once():
    for family in range(46):
        for kind in (1, 2, 3, 5):
            with contextlib.suppress(OSError):
                socket.socket(family, kind).close()


@way
def abstract_name():
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("\0trace")
    sock.listen()
    os.dup(sock.detach())
    child(signal.pause)


@way
def sockets_in_flight():
    """Which nobody can receive any more, and the kernel collects when it comes to that; with other files in them."""
    one, other = socket.socketpair(socket.AF_UNIX)
    more = [
        os.open(path, os.O_RDONLY)
        for path in ("/dev/shm", "/dev/mqueue", "/proc/net/dev", "/proc/self/ns/net")
    ]
    more.append(os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600))
    socket.send_fds(one, [b"x"], [one.fileno(), other.fileno(), *more])
    socket.send_fds(other, [b"x"], [one.fileno(), other.fileno(), *more])


@way
def packets():
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (address, 9))


@way
def connection():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        server.accept()[0].close()


@way
def label_of_flows():
    """That stays for a while when its socket is closed (ipv6: IPV6_FLOWLABEL_MGR)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        request = socket.inet_pton(socket.AF_INET6, "::1") + struct.pack("!IBBHHHI", 4711, 0, 3, 1, 60, 60, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, 32, request)


@way
def groups():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        member = struct.pack("4s4s", socket.inet_aton("224.0.0.77"), socket.inet_aton("127.0.0.1"))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        os.dup(sock.fileno())


@way
def what_the_kernel_counts_for_a_user():
    """Watches, queues, signals, locked memory, rings of asynchronous calls."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            call("inotify_init1", 0)
    with contextlib.suppress(OSError):
        call("io_setup", 64, struct.pack("Q", 0))
    with contextlib.suppress(OSError):
        LIBC.mlockall(3)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGRTMIN)
    with contextlib.suppress(OSError):
        for _ in range(100):
            call("timer_create", 1, None, ctypes.create_string_buffer(8))
    mmap.mmap(-1, 1 << 20)
    child(signal.pause)


@way
def devices():
    for path in ("/dev/trace", "/dev/pts/trace", "/trace", "/etc/trace", "/tmp/trace"):
        with contextlib.suppress(OSError):
            _write(path, "for you")
    for path in ("/dev", "/dev/null", "/dev/pts", "/dev/ptmx", "/etc/hosts", "/etc/hostname", "/", "/etc"):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o777)
        with contextlib.suppress(OSError):
            os.utime(path, (1, 1))
    with contextlib.suppress(OSError):
        _write("/etc/hosts", "6.6.6.6 trace\n")
    os.openpty()


for chosen in sys.argv[1:]:
    try:
        WAYS[chosen]()
    except OSError as refused:
        print(chosen, refused, flush=True)
os._exit(0)
