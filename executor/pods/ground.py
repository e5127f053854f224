"""What has to be right on the node before the sandbox of a pod is made: what its volumes lie on, its profiles."""

import asyncio
from collections.abc import Mapping
from typing import Any

from executor.pods import apparmor, labels, ownership
from executor.pods.claims import CLAIM
from executor.pods.enforcing import Facts
from executor.pods.hostpath import VolumeError, check_host_path
from executor.stage1.lsm import APPARMOR


class GroundError(Exception):
    """Something is not as the pod needs it; one line."""


async def prepare(pod: Mapping[str, Any], node: Facts, *, insist: bool = True) -> None:
    """Check, and make what may be made. insist: on what has to be enforced (see `enforcing`). Raises VolumeError,
    GroundError."""
    for volume in pod["spec"].get("volumes") or ():
        if "hostPath" in volume:
            check_host_path(volume)
        if CLAIM in volume:
            await _give(volume, pod["spec"].get("securityContext") or {})
    wanted = labels.wants_default_profile(pod) and not node.labels.get(APPARMOR)
    if wanted and (insist or node.default_profile):
        try:
            await apparmor.ensure_default()
        except apparmor.ProfileError as error:
            raise GroundError(str(error)) from None


async def _give(volume: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """The volume of a claim to the pod's fsGroup. As in Kubernetes at every start, unless the pod says otherwise."""
    group = context.get("fsGroup")
    if group is None:
        return
    policy = context.get("fsGroupChangePolicy") or ownership.ALWAYS
    path, read_only = volume["hostPath"]["path"], volume[CLAIM]["readOnly"]
    try:
        await asyncio.to_thread(ownership.give, path, group, read_only=read_only, policy=policy)
    except OSError as error:
        name = volume["name"]
        raise VolumeError(
            f'MountVolume.SetUp failed for volume "{name}" : fsGroup {group}: {error.strerror}'
        ) from None
