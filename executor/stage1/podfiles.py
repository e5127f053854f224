"""The files of a pod directory that stage1 makes (docs/stage1-interface.md)."""

import os
import stat
from typing import Final

from executor.stage1 import manifest, plan, syscalls

_PART: Final = 65_536
_FEW: Final = 32


def prepare(paths: plan.Paths, pod: manifest.Pod) -> None:
    """Directories and files of the pod directory that stage0 need not have made."""
    make_directory(os.path.dirname(paths.status("")))
    for volume in pod.volumes.values():
        if volume.kind == "empty" and not volume.memory:
            _make_volume(paths.volume(volume.name), volume)
    make_directory(os.path.dirname(paths.etc("")))
    for file in ("hosts", "hostname", "resolv.conf"):
        if not os.path.exists(paths.etc(file)):
            _write(paths.etc(file), _etc(file, pod))


def _etc(file: str, pod: manifest.Pod) -> str:
    if file == "hosts":
        return _hosts(pod)
    return (
        _read_host("/etc/resolv.conf")
        if file == "resolv.conf"
        else f"{pod.hostname or os.uname().nodename}\n"
    )


def _hosts(pod: manifest.Pod) -> str:
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    if pod.host_network or not pod.isolated:
        return _read_host("/etc/hosts") or hosts
    return hosts + (f"127.0.0.1\t{pod.hostname}\n" if pod.hostname else "")


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


def _read_host(path: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


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
    if _write_over(path, os.fsencode(text)):
        return
    new = f"{path}.new"
    _write(new, text)
    try:
        syscalls.exchange(new, path)
    except OSError:  # there was none, or the file system cannot
        os.replace(new, path)
    else:
        os.unlink(new)


def _write_over(path: str, data: bytes) -> bool:
    if len(data) > _FEW:
        return False
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return os.fstat(fd).st_size == len(data) and os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        rest = os.fsencode(text)
        while rest:
            rest = rest[os.write(fd, rest) :]
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
