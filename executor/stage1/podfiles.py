"""The files of a pod directory that stage1 makes (docs/stage1-interface.md)."""

import os
import stat
from typing import Final

from executor.stage1 import manifest, plan, syscalls

_PART: Final = 65_536
_FEW: Final = 32


def prepare(paths: plan.Paths, pod: manifest.Pod) -> None:
    """Directories and files of the pod directory that stage0 need not have made."""
    make_directory(paths.status("").rstrip("/"))
    for volume in pod.volumes.values():
        if volume.kind == "empty" and not volume.memory:
            _make_volume(paths.volume(volume.name), volume)
    make_directory(paths.etc("").rstrip("/"))
    for file in ("hosts", "hostname", "resolv.conf"):
        try:
            fd = os.open(paths.etc(file), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue  # stage0 has made it
        _fill(fd, _etc(file, pod))


def _etc(file: str, pod: manifest.Pod) -> bytes:
    if file == "hosts":
        return _hosts(pod)
    return _read_host("/etc/resolv.conf") if file == "resolv.conf" else _hostname(pod)


def _hostname(pod: manifest.Pod) -> bytes:
    return os.fsencode(f"{pod.hostname or os.uname().nodename}\n")


def _hosts(pod: manifest.Pod) -> bytes:
    hosts = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    if pod.host_network or not pod.isolated:
        return _read_host("/etc/hosts") or hosts
    return hosts + (os.fsencode(f"127.0.0.1\t{pod.hostname}\n") if pod.hostname else b"")


def memory_volume(pid: int, name: str) -> str:
    """Where a volume in memory is for those outside of the pod. pid: of its sandbox (docs/stage1-interface.md)."""
    root = f"/proc/{pid}/root"
    found = f"{root}/more/volume.{name}"
    return found if os.path.isdir(found) else f"{root}/volume.{name}"  # of stage1 images of others


def make_directory(path: str) -> None:
    """One that may be there already."""
    try:
        os.mkdir(path)
    except FileExistsError:
        pass  # stage0 has made it
    except FileNotFoundError:
        make_directory(os.path.dirname(path))
        make_directory(path)


def _make_volume(path: str, volume: manifest.Volume) -> None:
    if os.path.isdir(path):
        return
    os.makedirs(path)
    os.chown(path, volume.uid, volume.gid)
    os.chmod(path, volume.mode)


def _read_host(path: str) -> bytes:
    try:
        return read(path) if stat.S_ISREG(os.stat(path).st_mode) else b""
    except FileNotFoundError:
        return b""


def read(path: str) -> bytes:
    """A small file, in as few calls as it takes. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _PART):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    """Write a small file so that a reader sees all of it or the one before.

    An exchange and not a rename: ext4 takes that for a program that wants its file on the disk, and starts to write
    (auto_da_alloc, ext4(5)), which is milliseconds where a disk is busy; these files need not outlive the machine. A
    few bytes in the place of as many are written at once.
    """
    data, new = os.fsencode(text), f"{path}.new"
    try:
        if _write_over(path, data):
            return
        there = True
    except FileNotFoundError:
        there = False
    _fill(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666), data)
    try:
        if there:
            syscalls.exchange(new, path)
    except OSError:  # the file system cannot
        there = False
    if there:
        os.unlink(new)
    else:
        os.replace(new, path)


def _write_over(path: str, data: bytes) -> bool:
    """Raises FileNotFoundError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    try:
        same = len(data) <= _FEW and os.fstat(fd).st_size == len(data)
        return same and os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def _fill(fd: int, data: bytes) -> None:
    """Write a file that is new, and close it."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def link(path: str, target: str) -> None:
    """A symbolic link, in place of what is there."""
    try:
        if os.readlink(path) == target:
            return
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:  # no link
        os.unlink(path)
    os.symlink(target, path)
