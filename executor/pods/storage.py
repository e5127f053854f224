"""How much of the node's disk a pod uses, and whether that is more than it may: emptyDir's `sizeLimit` and the limit
`ephemeral-storage` of containers.

No file system is asked to enforce them: what is there is counted every few seconds, and a pod that has too much is
evicted, as the kubelet does it (`pkg/kubelet/eviction/eviction_manager.go`, localStorageEviction; its words). Volumes
in memory are no part of this: they are made of their size.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.models.quantities import quantity_bytes

STORAGE: Final = "ephemeral-storage"
BLOCK: Final = 512
BEYOND: Final = 1 << 80
Amounts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a pod may have. volumes: by name, of those with a limit; disks: all that count; containers: those with a
    limit, and everybody; total: of containers and volumes together, bytes, None without any limit of a container."""

    volumes: Amounts
    disks: tuple[str, ...]
    containers: Amounts
    everybody: tuple[str, ...]
    total: int | None


def quotas(pod: Mapping[str, Any]) -> Quotas | None:
    """None when nothing is limited, and so nothing has to be counted."""
    spec = pod["spec"]
    volumes: dict[str, str] = {}
    disks = []
    for volume in spec.get("volumes") or ():
        empty = volume.get("emptyDir")
        if empty is None or empty.get("medium"):
            continue
        disks.append(volume["name"])
        if empty.get("sizeLimit"):
            volumes[volume["name"]] = str(empty["sizeLimit"])
    inits, mains = spec.get("initContainers") or (), spec["containers"]
    containers = {one["name"]: limit for one in (*inits, *mains) if (limit := _limit(one))}
    if not volumes and not containers:
        return None
    everybody = tuple(one["name"] for one in (*inits, *mains))
    return Quotas(volumes, tuple(disks), containers, everybody, _total(inits, mains))


def _limit(container: Mapping[str, Any]) -> str:
    return str(((container.get("resources") or {}).get("limits") or {}).get(STORAGE) or "")


def _total(inits: Iterable[Mapping[str, Any]], mains: Iterable[Mapping[str, Any]]) -> int | None:
    """Those that run together, or one that runs before (resource helper PodLimits)."""
    together = [one for one in (*inits, *mains) if one not in inits or one.get("restartPolicy") == "Always"]
    limits = [quantity_bytes(limit) for one in together if (limit := _limit(one))]
    before = [quantity_bytes(limit) for one in inits if (limit := _limit(one))]
    return max([sum(limits), *before]) if limits or before else None


def exceeded(wanted: Quotas, pod_dir: Path) -> str:
    """What there is too much of, in the kubelet's words; "" when there is not. Slow: for a thread."""
    sizes = {name: _used([f"{pod_dir}/sharedVolumes/{name}"]) for name in wanted.disks}
    for name, limit in wanted.volumes.items():
        if sizes[name] > quantity_bytes(limit):
            return f'Usage of EmptyDir volume "{name}" exceeds the limit "{limit}". '
    if wanted.total is None:
        return ""
    written = {name: _used(_of_container(pod_dir, name)) for name in wanted.everybody}
    if sum(sizes.values()) + sum(written.values()) > wanted.total:
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {wanted.total}. "
    for name, limit in wanted.containers.items():
        if written[name] > quantity_bytes(limit):
            return f'Container {name} exceeded its local ephemeral storage limit "{limit}". '
    return ""


class Watch:
    """Counts for as long as a sandbox runs, and tells once. A pod without limits costs nothing."""

    def __init__(self, wanted: Quotas | None, seconds: float, tell: Callable[[str], None]) -> None:
        self._wanted = wanted
        self._seconds = seconds
        self._tell = tell
        self._task: asyncio.Task[None] | None = None

    def start(self, pod_dir: Path) -> None:
        self.stop()
        if self._wanted is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(self._wanted, pod_dir))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, wanted: Quotas, pod_dir: Path) -> None:
        while True:
            if message := await asyncio.to_thread(exceeded, wanted, pod_dir):
                self._tell(message)
                return
            await asyncio.sleep(self._seconds)


def _of_container(pod_dir: Path, name: str) -> list[str]:
    """What it has written to its root, and its logs; a stage1 of others has the former elsewhere."""
    places = [pod_dir / "overlay" / name / "upper", pod_dir / "logs" / name]
    return [str(place) for place in (*places, *pod_dir.glob(f"overlay/*/upper/{name}"))]


def _used(places: Iterable[str]) -> int:
    """Bytes on disk, every file once. What cannot be read, or goes meanwhile, counts nothing; what is deeper than a
    path may be long is beyond any limit, so that nobody has a place there that is not counted."""
    seen: set[tuple[int, int]] = set()
    total, todo = 0, list(places)
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if info.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if (info.st_dev, info.st_ino) in seen:
                            continue
                        seen.add((info.st_dev, info.st_ino))
                    total += info.st_blocks * BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                total += BEYOND
    return total
