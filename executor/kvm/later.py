"""Gives a running virtiofsd more to show, and takes it away: for apps that come later and go.

A program of its own (`python -c`, see executor/kvm/changes.py), for it goes into mount namespaces. It reads JSON:
pid: virtiofsd's; manifest: a PodManifest of one app, whose mounts are put there; places: directories of the host that
virtiofsd has by other paths, in which mount points are made; place: a directory to make layers one tree on; gone: paths
that are not shown any more. It prints what went wrong, in one line.
"""

import json
import os
import stat
import sys
from collections.abc import Mapping
from typing import Any

from executor.stage1 import manifest, ops, syscalls
from executor.stage1.manifest import ManifestError, Mount, Pod
from executor.stage1.ops import StageError
from executor.stage1.syscalls import MS_REC, MS_SLAVE


def main() -> int:
    """The exit code."""
    try:
        _change(json.load(sys.stdin))
    except (StageError, ManifestError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _change(request: Mapping[str, Any]) -> None:
    pod = manifest.read(json.dumps(request["manifest"]))
    mounts = [mount for app in pod.apps.values() for mount in app.mounts]
    proc = f"/proc/{request['pid']}/ns"
    there = os.open(f"{proc}/mnt", os.O_RDONLY | os.O_CLOEXEC)
    context = ops.Context({})
    mapped = not os.path.samestat(os.stat(f"{proc}/user"), os.stat("/proc/self/ns/user"))
    if mapped:
        context.fds["users"] = os.open(f"{proc}/user", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, MS_REC | MS_SLAVE)
    ops.execute([_take(pod, mount, request["place"], mapped=mapped) for mount in mounts], context)
    for mount in mounts:
        _make_point(mount.path, context.fds[_name(mount)], request["places"])
    syscalls.setns(there, syscalls.CLONE_NEWNS)
    context.fds["root"] = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for path in request["gone"]:
        syscalls.umount(path)
    ops.execute([_attach(pod, mount, mapped=mapped) for mount in mounts], context)


def _name(mount: Mount) -> str:
    return f"volume:{mount.path}"


def _take(pod: Pod, mount: Mount, place: str, *, mapped: bool) -> ops.Op:
    """As stage1 does for an app that starts (executor/stage1/plan.py)."""
    volume = pod.volumes[mount.volume]
    if len(volume.layers) > 1:
        return ops.TakeOverlay(_name(mount), volume.layers, place, mapped)
    return ops.TakeVolume(_name(mount), volume.source, mount.sub_path, volume.recursive)


def _attach(pod: Pod, mount: Mount, *, mapped: bool) -> ops.Op:
    volume = pod.volumes[mount.volume]
    attributes = syscalls.MOUNT_ATTR_NODEV | (syscalls.MOUNT_ATTR_RDONLY if mount.read_only else 0)
    mapped = mapped and len(volume.layers) < 2
    return ops.Attach(_name(mount), mount.path, attributes, volume.recursive, no_links=True, mapped=mapped)


def _make_point(path: str, tree: int, places: Mapping[str, str]) -> None:
    above, _, name = path.rpartition("/")
    point = f"{places[above]}/{name}"
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(point, exist_ok=True)
    else:
        os.close(os.open(point, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
