"""hostPath volumes: is on the host what the pod says is there? Kubernetes `pkg/volume/hostpath/host_path.go`."""

import os
import stat
from collections.abc import Mapping
from typing import Any, Final

_IS: Final = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "FileOrCreate": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket file"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


class VolumeError(Exception):
    """A volume cannot be set up; the message is one line and names it."""


def check_host_path(volume: Mapping[str, Any]) -> None:
    """Check, and with a …OrCreate type make, the source of a hostPath volume. Raises VolumeError.

    Without a type nothing is checked, and a directory is made when nothing is there, as container runtimes do.
    """
    source = volume["hostPath"]
    path, kind = source["path"], source.get("type") or ""
    try:
        if kind in {"", "DirectoryOrCreate"} and not os.path.lexists(path):
            os.makedirs(path, 0o755)
        elif kind == "FileOrCreate" and not os.path.lexists(path):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        mode = os.stat(path).st_mode
    except OSError as error:
        raise VolumeError(_about(volume, f"hostPath {path}: {error.strerror}")) from None
    if not kind:
        return
    if kind not in _IS:
        raise VolumeError(_about(volume, f"hostPath type {kind!r} is not known"))
    test, name = _IS[kind]
    if not test(mode):
        raise VolumeError(_about(volume, f"hostPath type check failed: {path} is not {name}"))


def _about(volume: Mapping[str, Any], problem: str) -> str:
    return f'MountVolume.SetUp failed for volume "{volume["name"]}" : {problem}'
