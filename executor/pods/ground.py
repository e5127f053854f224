"""What has to be right on the node before the sandbox of a pod is made: what its volumes lie on, its profiles."""

from collections.abc import Mapping
from typing import Any

from executor.pods import apparmor, labels
from executor.pods.enforcing import Facts
from executor.pods.hostpath import check_host_path
from executor.stage1.lsm import APPARMOR


class GroundError(Exception):
    """Something is not as the pod needs it; one line."""


async def prepare(pod: Mapping[str, Any], node: Facts) -> None:
    """Check, and make what may be made. Raises VolumeError, GroundError."""
    for volume in pod["spec"].get("volumes") or ():
        if "hostPath" in volume:
            check_host_path(volume)
    if labels.wants_default_profile(pod) and not node.labels.get(APPARMOR):
        try:
            await apparmor.ensure_default()
        except apparmor.ProfileError as error:
            raise GroundError(str(error)) from None
