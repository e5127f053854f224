"""The system calls that Python's `os` lacks, as thin wrappers: they take bytes-like paths and raise OSError.

The one door to ctypes. No policy here: what is called, with which flags and in which order is in `ops`.
Needs Linux >= 5.12 (mount_setattr, the newest call used) on x86_64 or aarch64.
"""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long
_mmap: Final = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

# Numbers above 423 are the same on every architecture (include/uapi/asm-generic/unistd.h).
_PER_MACHINE: Final = {
    "x86_64": (155, 250, 317, 313, 316, 56, 13),
    "aarch64": (41, 219, 277, 273, 276, 220, 134),
}
SUPPORTED_MACHINE: Final = os.uname().machine in _PER_MACHINE
_PIVOT_ROOT, _KEYCTL, _SECCOMP, _FINIT_MODULE, _RENAMEAT2, _CLONE, _SIGACTION = _PER_MACHINE.get(
    os.uname().machine, (-1,) * 7
)
_OPEN_TREE, _MOVE_MOUNT, _PIDFD_OPEN, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 428, 429, 434, 436, 437, 442
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432

_SIGNAL_SET: Final = 128  # bytes of the C library's sigset_t
_C_LIBRARYS: Final = (32, 33)
_CLONE_PARENT: Final = 0x8000
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED = 4096, 16384, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH: Final = 2

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
MOVE_MOUNT_T_SYMLINKS: Final = 0x10
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
MOUNT_ATTR_IDMAP: Final = 0x00100000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x02, 0x04, 0x08, 0x10

_MADV_POPULATE_WRITE: Final = 23
_RETRIES: Final = 1000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP = 28, 4
PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 8, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 36, 38, 47, 4
KEYCTL_JOIN_SESSION_KEYRING: Final = 1


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _encode(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags))


def setns(fd: int, flags: int) -> None:
    """setns(2); `fd` is a namespace or a pidfd (then `flags` may name several namespaces)."""
    _check(_libc.setns(fd, flags))


def fork_sibling() -> int:
    """fork(2), of a process of one thread, whose child is the caller's parent's (clone(2), CLONE_PARENT)."""
    return _check(_syscall(_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0))


def forget_signals() -> None:
    """Those that the C library keeps to itself (nptl(7)) do what they do by default. It lets nobody else say so.

    Who was started by posix_spawn(3) of a program with threads may have them ignored, and exec keeps that.
    """
    default = bytes(32)  # struct sigaction of the kernel's
    for number in _C_LIBRARYS:
        _check(_syscall(_SIGACTION, number, default, None, ctypes.c_size_t(8)))


def mount(source: str, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), _encode(fstype), ctypes.c_ulong(flags), _encode(data)
        )
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2); lazily unless told otherwise."""
    _check(_libc.umount2(os.fsencode(target), flags))


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _check(_syscall(_PIVOT_ROOT, os.fsencode(new), os.fsencode(old)))


def open_tree(path: str, flags: int, directory: int = AT_FDCWD) -> int:
    """open_tree(2), close-on-exec: with OPEN_TREE_CLONE a detached copy of the mount(s) at `path`."""
    return _check(_syscall(_OPEN_TREE, directory, os.fsencode(path), flags | os.O_CLOEXEC))


def new_mount(fstype: str, options: Mapping[str, str]) -> int:
    """A descriptor of a new file system that is mounted nowhere, and gone with it (fsopen(2), fsmount(2))."""
    set_string, create, cloexec = 1, 6, 1
    context = _check(_syscall(_FSOPEN, os.fsencode(fstype), cloexec))
    try:
        for name, value in options.items():
            _check(_syscall(_FSCONFIG, context, set_string, os.fsencode(name), os.fsencode(value), 0))
        _check(_syscall(_FSCONFIG, context, create, None, None, 0))
        return _check(_syscall(_FSMOUNT, context, cloexec, 0))
    finally:
        os.close(context)


def move_mount(tree: int, target: int) -> None:
    """Attach the detached mount `tree` on the place that the descriptor `target` names (move_mount(2))."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _check(_syscall(_MOVE_MOUNT, tree, b"", target, b"", flags))


def mount_setattr(
    fd: int, attributes: int, *, recursive: bool, propagation: int = 0, users: int = -1
) -> None:
    """Set attributes and propagation of the mount that `fd` names, and id-map it by `users` (mount_setattr(2))."""
    if users >= 0:
        attributes |= MOUNT_ATTR_IDMAP
    attr = _MountAttr(attributes, 0, propagation, max(users, 0))
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(_syscall(_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr)))


def map_mount(fd: int, users: int, *, recursive: bool) -> None:
    """Id-map a detached mount by the user namespace `users` (mount_setattr(2), MOUNT_ATTR_IDMAP)."""
    mount_setattr(fd, 0, recursive=recursive, users=users)


def set_file_ids(uid: int, gid: int) -> None:
    """Whom the files we make belong to, keeping all capabilities (setfsuid(2), capabilities(7) SECBIT_…)."""
    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)


def forget_file_ids() -> None:
    """Undo `set_file_ids`."""
    _libc.setfsuid(0)
    _libc.setfsgid(0)
    prctl(PR_SET_SECUREBITS, 0)


def exchange(one: str, other: str) -> None:
    """Swap two files that are there (renameat2(2), RENAME_EXCHANGE)."""
    _check(_syscall(_RENAMEAT2, AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), ctypes.c_uint(2)))


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2), always close-on-exec.

    A rename or mount anywhere while ".." is resolved makes it EAGAIN: then again, not without end.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.sizeof(how)
    fd = -1
    for _ in range(_RETRIES):
        fd = _syscall(_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), size)
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(fd)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """close_range(2): close every descriptor in [first, last]."""
    _check(_syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0))


def prefault() -> None:
    """Make this process's copy-on-write memory its own now instead of page by page when it is in a hurry.

    madvise(2) MADV_POPULATE_WRITE, Linux >= 5.14; without it the pages come later, as ever.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    for line in lines:
        span, permissions = line.split(None, 2)[:2]
        if permissions == "rw-p":
            start, end = (int(part, 16) for part in span.split("-"))
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_POPULATE_WRITE)


def map_code(fd: int, size: int) -> int:
    """Map a file's bytes so that they can be executed, but not changed; returns the address (mmap(2))."""
    read, execute, private = 1, 4, 2
    address: int | None = _mmap(None, size, read | execute, private, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return address


def prctl(option: int, argument: int, second: int = 0) -> int:
    """prctl(2) for options with integer arguments."""
    zero = ctypes.c_ulong(0)
    return _check(_libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(second), zero, zero))


def set_process_name(name: str) -> None:
    """What `ps -o comm` shows; the kernel keeps 15 bytes."""
    _check(_libc.prctl(PR_SET_NAME, os.fsencode(name)[:15], 0, 0, 0))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) version 3 of this thread; the sets are bit masks of capability numbers."""
    header = _CapHeader(0x20080522, 0)
    low, high = 0xFFFFFFFF, 32
    words = (effective, permitted, inheritable)
    data = (ctypes.c_uint32 * 6)(*(w & low for w in words), *(w >> high for w in words))
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)))


def seccomp_filter(program: bytes) -> None:
    """Install a BPF program (array of struct sock_filter) for this thread and what it executes (seccomp(2))."""
    set_mode_filter, instruction = 1, 8
    prog = _SockFprog(len(program) // instruction, program)
    _check(_syscall(_SECCOMP, set_mode_filter, 0, ctypes.byref(prog)))


def join_session_keyring() -> None:
    """Leave the caller's session keyring for a new, anonymous one (keyctl(2))."""
    _check(_syscall(_KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None))


def load_module(fd: int) -> None:
    """Load a kernel module from an open file (finit_module(2)), without parameters."""
    _check(_syscall(_FINIT_MODULE, fd, b"", 0))


def restart() -> None:
    """Restart the machine at once, syncing nothing (reboot(2))."""
    _check(_libc.reboot(0x01234567))


IN_MOVED_TO, IN_CREATE, IN_ONLYDIR = 0x80, 0x100, 0x01000000


def signalfd(signals: Iterable[int]) -> int:
    """A descriptor from which signals are read that are blocked: signalfd(2). Does not block."""
    mask = sum(1 << (number - 1) for number in signals).to_bytes(_SIGNAL_SET, sys.byteorder)
    return _check(_libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))


def inotify(directory: str, mask: int) -> int:
    """A non-blocking descriptor that tells of a directory's entries (inotify(7))."""
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    if _libc.inotify_add_watch(fd, os.fsencode(directory), ctypes.c_uint32(mask | IN_ONLYDIR)) < 0:
        error = ctypes.get_errno()
        os.close(fd)
        raise OSError(error, os.strerror(error), directory)
    return fd
