"""What a pod directory says, in the words of errors that its pod's launcher is to be told."""

import os

from executor.stage1 import cgroups, manifest, plan, podfiles
from executor.stage1.ops import StageError


def read_manifest(directory: str) -> manifest.Pod:
    """What is to run. Raises StageError."""
    path = f"{directory}/pod"
    try:
        return manifest.read(podfiles.read(path))
    except OSError as error:
        raise StageError(f"read {path}: {text(error)}") from None
    except manifest.ManifestError as error:
        raise StageError(f"{path}: {error}") from None


def read_url(directory: str) -> str:
    """What AC_METADATA_URL will be, "" without a metadata service. A secret, so no part of the manifest.

    Raises StageError.
    """
    try:
        return podfiles.read(f"{directory}/metadata-url").decode("ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise StageError(f"read {directory}/metadata-url: {text(error)}") from None


def disk(pod: manifest.Pod, directory: str) -> str:
    """The disk below the pod directory, if somebody's use of it is limited. Raises StageError."""
    limits = [pod.limits, *(app.limits for app in pod.apps.values())]
    if all(one.block_bandwidth is None and one.block_iops is None for one in limits):
        return ""
    try:
        return cgroups.disk_below(directory)
    except (OSError, cgroups.CgroupError) as error:
        raise StageError(f"run {directory}: {text(error)}") from None


def unlimited(pod: manifest.Pod) -> tuple[str, ...]:
    """Controllers that this pod needs no cgroups of. What it uses of the processor is its executor's use, too."""
    limits = [pod.limits, *(app.limits for app in pod.apps.values())]
    return ("cpuacct",) if any(one.pids is not None for one in limits) else ("cpuacct", "pids")


def apart(pod: manifest.Pod) -> bool:
    """Whether no memory is limited for the pod as a whole, and its init can do without a cgroup of the pod's."""
    return pod.flavor == "linux" and not pod.host_pid and pod.limits.memory_limit is None


def read_lowers(paths: plan.Paths, app: str) -> tuple[str, ...]:
    """An app's layers, uppermost first. Raises OSError, StageError."""
    lowers = tuple(line for line in os.fsdecode(podfiles.read(paths.lowers(app))).splitlines() if line)
    if not lowers:
        raise StageError(f"start {app}: {paths.lowers(app)} names no layer")
    return lowers


def text(error: Exception) -> str:
    """One line for an error of any kind."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    return str(error)
