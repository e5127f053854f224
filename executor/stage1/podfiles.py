"""The files of a pod directory that stage1 makes (docs/stage1-interface.md)."""

import os
import stat

from executor.stage1 import manifest, plan


def prepare(paths: plan.Paths, pod: manifest.Pod) -> None:
    """Directories and files of the pod directory that stage0 need not have made."""
    make_directory(os.path.dirname(paths.status("")))
    for volume in pod.volumes.values():
        if volume.kind == "empty" and not volume.memory:
            _make_volume(paths.volume(volume.name), volume)
    make_directory(os.path.dirname(paths.etc("")))
    name = pod.hostname or os.uname().nodename
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    if pod.host_network or not pod.isolated:
        hosts = _read_host("/etc/hosts") or hosts
    elif pod.hostname:
        hosts += f"127.0.0.1\t{pod.hostname}\n"
    for file, text in (
        ("hosts", hosts),
        ("hostname", name + "\n"),
        ("resolv.conf", _read_host("/etc/resolv.conf")),
    ):
        if not os.path.exists(paths.etc(file)):
            with open(paths.etc(file), "w", encoding="utf-8", errors="surrogateescape") as new:
                new.write(text)


def make_directory(path: str) -> None:
    """One that may be there already."""
    try:
        os.mkdir(path)
    except FileExistsError:
        pass  # stage0 has made it
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)


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


def write(path: str, text: str) -> None:
    """Write a small file so that a reader sees all of it or the one before."""
    with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def link(path: str, target: str) -> None:
    """A symbolic link, in place of what is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    os.symlink(target, path)
