"""`gc`: a stage1's own chance to collect what it has made for a pod, before the pod's directory goes.

In fresh mounts, for those of the pod are gone with its processes; so it does not matter what was killed when.
`stage1/manifest` goes when `gc` has succeeded: until then, every try is a whole one.
"""

import asyncio
import logging
from contextlib import ExitStack, suppress
from pathlib import Path

from executor.contract import tree
from executor.contract.client import Holder
from executor.contract.interface import ContractError, gc_arguments, read
from executor.pods.launcher import LaunchError
from executor.stage1 import cgroups

log = logging.getLogger(__name__)


async def collect(pod_dir: Path, layout: cgroups.Layout, seconds: float) -> None:
    """Execute `gc` for a pod none of whose processes lives. Idempotent. Raises LaunchError, when it failed."""
    manifest = pod_dir / "stage1" / "manifest"
    try:
        stage1 = read(_name(pod_dir), manifest.read_bytes())
    except FileNotFoundError:
        return  # done, or never run by such a stage1
    except ContractError as error:
        raise LaunchError(str(error)) from None
    missing = [
        one for one in (pod_dir / "stage1" / "lower").read_text().splitlines() if not Path(one).is_dir()
    ]
    if missing:
        log.error(
            "pod %s: stage1 %s cannot collect: its image is gone (%s)", pod_dir.name, stage1.name, missing[0]
        )
        manifest.unlink()
        return
    cgroup = cgroups.PodCgroup(layout, pod_dir.name)
    with ExitStack() as undo:
        undo.callback(cgroup.remove)
        try:
            await asyncio.to_thread(cgroup.create)
            holder = await Holder.start(pod_dir, cgroup, None)
        except (OSError, cgroups.CgroupError) as error:
            raise LaunchError(f"stage1 {stage1.name}: gc: {error}") from None
        undo.pop_all()
    try:
        await holder.prepare(tree.stage1_steps(pod_dir))
        how = await holder.run(
            [tree.entrypoint(pod_dir, stage1, "gc"), *gc_arguments(stage1, pod_dir.name)], seconds=seconds
        )
        if how.code != 0:
            raise LaunchError(f"stage1 {stage1.name}: `gc` ended with {how}")
    finally:
        await holder.close()
    manifest.unlink()


def _name(pod_dir: Path) -> str:
    """What the administrator calls the stage1 of a pod."""
    with suppress(OSError):
        return (pod_dir / "stage1" / "name").read_text()
    return pod_dir.name


def dispose(
    pod_dir: Path, layout: cgroups.Layout, seconds: float, *, tries: int = 3, between: float = 1.0
) -> bool:
    """`collect` from a thread without a loop, some times over; False when it failed each time, and was told."""
    if not (pod_dir / "stage1" / "manifest").exists():
        return True
    return asyncio.run(_dispose(pod_dir, layout, seconds, tries, between))


async def _dispose(pod_dir: Path, layout: cgroups.Layout, seconds: float, tries: int, between: float) -> bool:
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(between * attempt)
        try:
            await collect(pod_dir, layout, seconds)
        except (LaunchError, OSError) as error:
            log.error("pod %s: %s (try %d of %d)", pod_dir.name, error, attempt + 1, tries)
        else:
            return True
    return False
