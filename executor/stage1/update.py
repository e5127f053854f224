"""Pure: what may change in the manifest of a pod that runs: its apps and what only they need, nothing of its own."""

from collections.abc import Set
from typing import Final

from executor.stage1.manifest import Pod
from executor.stage1.ops import StageError

_FIXED: Final = (
    "flavor", "hostname", "host_network", "host_pid", "host_ipc", "own_processes", "users", "limits", "sysctls",
    "privileged",
)  # fmt: skip


def updated(first: Pod, new: Pod, running: Set[str]) -> Pod:
    """The pod as it is from now on. first: as it was when it was started. running: apps that have to stay.

    Raises StageError for what would have to be made when the pod starts.
    """
    for name in _FIXED:
        if getattr(first, name) != getattr(new, name):
            raise StageError(f"the pod's {name.replace('_', ' ')} cannot change while it runs")
    if gone := sorted(running - set(new.apps)):
        raise StageError(f"app {gone[0]} still runs")
    for volume in new.volumes.values():
        if volume.memory and first.volumes.get(volume.name) != volume:
            raise StageError(f"volume {volume.name}: volumes in memory are made when the pod starts")
    had = first.apps.values()
    for app in new.apps.values():
        if app.privileged and not (first.privileged or any(one.privileged for one in had)):
            raise StageError(f"app {app.name}: the pod was not started for privileged apps")
        if app.whole_proc and not any(one.whole_proc for one in had):
            raise StageError(
                f"app {app.name}: gantry.io/proc-mount: unmasked is not for apps that come later"
            )
        disk = (app.limits.block_bandwidth, app.limits.block_iops) != (None, None)
        if disk and not any(
            (one.limits.block_bandwidth, one.limits.block_iops) != (None, None) for one in had
        ):
            raise StageError(f"app {app.name}: limits of the disk are not for apps that come later")
    return new._replace(ids=first.ids, metadata_url=first.metadata_url)
