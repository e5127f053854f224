"""Which stage1 images there are on this node, by its administrator's word, and pods that run by them.

A pod names one, by its RuntimeClass' handler or rktnetes' annotation; what image that is, and why it may be trusted,
is in the `[stage1]` table of the executor's `--image-config` alone (executor/stage0/trust/stage1.py).
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executor.contract.disposal import dispose
from executor.contract.immutable import Immutable
from executor.contract.interface import ContractError, Stage1, read
from executor.contract.manifest import convert, image_id, refusal
from executor.contract.mutable import Mutable
from executor.contract.sandbox import Job, Patience
from executor.contract.tree import put, write_pod
from executor.pods.launcher import AppExit, LaunchError
from executor.pods.ports import RunPod, Sandbox
from executor.stage0 import operations
from executor.stage0.errors import ImageError, ImageUntrusted
from executor.stage0.pins import Share
from executor.stage0.settings import Settings
from executor.stage0.store import Image, ImageStore
from executor.stage0.trust.stage1 import check_digest
from executor.stage1 import cgroups
from executor.stage1.reading import read_url

log = logging.getLogger(__name__)

LOAD_SECONDS: Final = 20.0
Lock = Callable[[Path], int]
"""The descriptor that holds the lock of a pod's directory."""


@dataclass(frozen=True)
class _Ready:
    stage1: Stage1
    image: Image


class Stages:
    """The stage1 images that the settings allow, and the pods that they run."""

    def __init__(
        self,
        state_dir: Path,
        settings: Settings,
        lock: Lock,
        *,
        local_images: Path | None = None,
        patience: Patience | None = None,
        memory: Path | None = None,
    ) -> None:
        """memory: the cgroup below which pods are, in the hierarchy of that name; None: our own."""
        self._memory = memory
        self._state_dir = state_dir
        self._lock = lock
        self._patience = patience or Patience()
        self._images = settings.stage1
        self._stores = {
            name: ImageStore(
                state_dir, local_images=local_images, settings=settings, trust=image.gate(settings.gate)
            )
            for name, image in self._images.items()
        }
        self._known: dict[str, Stage1] = {}
        self._pins: dict[str, Share] = {}
        self._layout: cgroups.Layout | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the administrator calls them: handlers of RuntimeClasses."""
        return tuple(self._images)

    async def load(self) -> None:
        """Have them all in the store, so that a pod is refused when it comes and not when it starts. What fails is
        told, and tried again with each pod."""
        if not self._images:
            return

        async def one(name: str) -> None:
            try:
                await self._ready(name)
            except LaunchError as error:
                log.error("%s", error)

        tasks = [asyncio.create_task(one(name)) for name in self._images]
        _, late = await asyncio.wait(tasks, timeout=LOAD_SECONDS)
        for task in late:
            log.warning("a stage1 image takes longer than %g s to come", LOAD_SECONDS)
            task.cancel()

    async def identity(self, flavor: str) -> str | None:
        """The id of the image that runs pods of this flavor; None if it is none of ours. Raises LaunchError."""
        return (await self._ready(flavor)).image.id if flavor in self._images else None

    def admit(self, flavor: str, pod: Mapping[str, Any]) -> None:
        """Raises ValueError for a v1 Pod that its stage1 cannot run. One that is not here yet says so when the pod
        starts.
        """
        stage1 = self._known.get(flavor)
        if stage1 is not None and (why := refusal(stage1, pod)):
            raise ValueError(why)

    async def run_pod(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> Sandbox:
        """As `executor.pods.launcher.Launcher.run_pod`. Raises LaunchError."""
        text = await asyncio.to_thread((pod_dir / "pod").read_text)
        name = flavor_of(text)
        ready = await self._ready(name)
        await asyncio.to_thread(self._pin, pod_dir.name, name, ready.image)
        try:
            url = await asyncio.to_thread(read_url, str(pod_dir))
            foreign = convert(ready.stage1, text, pod_dir, url)
            layout = self._find_layout()
            job = Job(
                *(pod_dir, ready.stage1, ready.image.layers, foreign, layout, self._lock(pod_dir)),
                self._patience,
            )
            await asyncio.to_thread(rewrite, pod_dir, foreign.manifest)
        except (ContractError, cgroups.CgroupError, OSError) as error:
            raise LaunchError(str(error)) from None
        mutable = ready.stage1.mutable
        sandbox = Mutable(job, on_exit, on_gone) if mutable else Immutable(job, on_exit, on_gone)
        await sandbox.begin()
        return sandbox

    def dispose(self, pod_dir: Path) -> bool:
        """Before a pod's directory is removed, in a thread: the stage1's `gc`. False when it has to be kept, because
        that failed."""
        done = True
        if (pod_dir / "stage1" / "manifest").exists():  # not of our own flavors
            try:
                patience = self._patience
                done = dispose(pod_dir, self._find_layout(), patience.gc, between=patience.between_gc)
            except cgroups.CgroupError as error:
                log.error("pod %s: %s", pod_dir.name, error)
                return False
        pin = self._pins.pop(pod_dir.name, None) if done else None
        if pin is not None:
            pin.close()
        return done

    def _find_layout(self) -> cgroups.Layout:
        if self._layout is None:
            own, mounts = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
            found = cgroups.detect(own, mounts)
            if self._memory is not None:
                found = found._replace(base={**found.base, "memory": str(self._memory)})
            self._layout = found
        return self._layout

    async def _ready(self, name: str) -> _Ready:
        """The image as policy lets it in now. Raises LaunchError."""
        asked = self._images.get(name)
        if asked is None:
            raise LaunchError(f"stage1 {name}: this executor's settings have none of that name")
        store = self._stores[name]
        try:
            image = await store.pull(asked.image, "IfNotPresent")
            check_digest(asked, image.id, image.digest)
            if image.config.format != "aci":
                raise ImageUntrusted(
                    f"{asked.image}: a stage1 is an ACI; this is a {image.config.format} image"
                )
            text = await asyncio.to_thread(_image_manifest, self._state_dir, image.id)
            stage1 = read(name, text)
        except (ImageError, ContractError) as error:
            self._known.pop(name, None)
            what = "" if isinstance(error, ContractError) else f"stage1 {name}: "
            raise LaunchError(f"{what}{error}") from None
        self._known[name] = stage1
        return _Ready(stage1, image)

    def _pin(self, pod: str, name: str, image: Image) -> None:
        if pod not in self._pins:
            try:
                self._pins[pod] = self._stores[name].hold(image)
            except ImageError as error:
                raise LaunchError(f"stage1 {name}: {error}") from None


def _image_manifest(state_dir: Path, image_id: str) -> str:
    with operations.opened(state_dir, image_id) as stored:
        return json.dumps(operations.manifest(stored))


def rewrite(pod_dir: Path, manifest: Mapping[str, Any]) -> None:
    """The pod's manifest, and those of its images, as appc has them."""
    write_pod(pod_dir, manifest)
    for app in manifest["apps"]:
        path = pod_dir / "appsinfo" / app["name"] / "manifest"
        image = json.loads(path.read_bytes())
        image.setdefault("app", {key: value for key, value in app["app"].items() if key != "mountPoints"})
        image["annotations"] = [
            {**one, "value": image_id(one["value"])} if one["name"] == "gantry.io/image-id" else one
            for one in image.get("annotations") or ()
        ]
        put(path, json.dumps(image))


def flavor_of(text: str | bytes) -> str:
    """Which stage1 a pod's manifest asks for."""
    for note in json.loads(text).get("annotations") or ():
        if note["name"] == "gantry.io/flavor":
            return str(note["value"])
    return "linux"


class ByFlavor:
    """`RunPod` that hands a pod to whoever runs its flavor."""

    def __init__(self, default: RunPod, others: Mapping[str, RunPod]) -> None:
        self._default, self._others = default, dict(others)

    def __call__(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> Awaitable[Sandbox]:
        if not self._others:
            return self._default(pod_dir, on_exit, on_gone)
        chosen = self._others.get(flavor_of((pod_dir / "pod").read_bytes()), self._default)
        return chosen(pod_dir, on_exit, on_gone)
