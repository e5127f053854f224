"""Pods of `app sandbox`: they run with no app, too, and their apps are added, started, stopped and removed meanwhile.

The process that runs the pod does all of it, one change after another: it alone writes the manifest of a pod that runs,
and holds the images of its apps. With it the pod dies, and what it was about to change is the pod's no more. An app is
started as those of any pod are.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from executor.pods.launcher import Launcher, LaunchError
from executor.pods.launcher import Sandbox as OwnSandbox
from executor.rkt import measured, prepare
from executor.rkt.common import Globals
from executor.rkt.control import Session, Verb
from executor.rkt.flags import Failure
from executor.rkt.foreground import Foreground
from executor.rkt.inside import keep_image_files
from executor.rkt.podmanifest import Fill, mounts, unrestrict
from executor.rkt.pods import STATUS
from executor.rkt.prepare import Making
from executor.stage0.pins import Share
from executor.stage0.removal import remove_tree

if TYPE_CHECKING:
    from executor.tpm.settings import TpmSettings

GRACE: Final = 10.0  # seconds


class MutablePod(Foreground):
    """One running pod whose apps come and go."""

    lasting = True

    def __init__(
        self,
        g: Globals,
        making: Making,
        launcher: Launcher | None,
        *,
        interactive: bool,
        tpm: "TpmSettings | None" = None,
    ) -> None:
        Foreground.__init__(self, g, making, launcher, interactive=interactive, tpm=tpm)
        self._digests: dict[str, str] = {}
        self._changing = asyncio.Lock()
        self._pins: dict[str, Share] = {}
        self._removing: set[str] = set()

    def verbs(self) -> dict[str, Verb]:
        return {
            **super().verbs(),
            "app-add": self._on_add,
            "app-start": self._on_start,
            "app-stop": self._on_stop_app,
            "app-rm": self._on_remove,
        }

    async def run(self) -> int:
        try:
            return await super().run()
        finally:
            for pin in self._pins.values():
                pin.close()

    # -- add ----------------------------------------------------------------------------------------------

    async def _on_add(self, session: Session) -> dict[str, Any]:
        """entry: of the manifest, without mounts; volumes: its own, and their paths; mounts: of volumes that are there;
        insecure: what whoever asks does not insist on."""
        from executor.rkt.lookup import Finder

        message = session.message
        entry, insecure = dict(message["entry"]), set(message["insecure"])
        name = str(entry["name"])
        async with self._changing:
            if name in self.entries:
                raise Failure(f"error: multiple apps with name {name}")
            finder = Finder(replace(self.g, insecure=insecure), "never")
            image, store = await finder.find(str(entry["image"]["id"]))
            pin = store.hold(image)
            async with AsyncExitStack() as undo:
                undo.callback(pin.close)
                source = prepare.source_of(self.g, image.id)
                manifest, fills = joined(
                    self.manifest, entry, message["volumes"], message["mounts"], docker=source.docker
                )
                self.check(entry, insecure)
                keep_image_files(manifest["apps"][-1], list(map(str, image.layers)), self.image_files)
                undo.push_async_callback(asyncio.to_thread, self._forget, name, set())
                await asyncio.to_thread(self._forget, name, set())  # what somebody has left that was killed
                await asyncio.to_thread(prepare.write_app, self.pod, name, source, image.layers, fills)
                self.write(f"{STATUS}/{name}-created", "")
                await self._change(manifest, {**self._digests, name: image.digest})
                undo.pop_all()
            self._pins[name], self._digests[name] = pin, image.digest
        return {}

    def check(self, entry: dict[str, Any], insecure: set[str]) -> None:
        """Put into an app what is not insisted on. Failure for what cannot be."""
        unrestrict({"apps": [entry]}, insecure, self._flavor)

    async def _change(self, manifest: dict[str, Any], digests: Mapping[str, str] | None = None) -> None:
        """Let the pod have another manifest; LaunchError, and all is as it was. digests: of the images, to measure."""
        with ExitStack() as undo:
            undo.callback(put_manifest, self.pod.path, self.manifest)
            put_manifest(self.pod.path, manifest)
            if self.tpm is not None and digests is not None:
                await measured.measure(self.g, self.tpm, self.launcher, self.pod.path, digests)
            assert isinstance(self.sandbox, OwnSandbox)
            await self.sandbox.update()
            undo.pop_all()
        self.manifest = manifest

    # -- start and stop -----------------------------------------------------------------------------------

    def _known(self, session: Session) -> str:
        name = str(session.message["app"])
        if name not in self.entries or name in self._removing:
            raise Failure(f'error: nonexistent app "{name}"')
        return name

    async def _on_start(self, session: Session) -> dict[str, Any]:
        name = self._known(session)
        if name not in self.runs:
            # As rkt's stage0/app_start.go: who looks meanwhile sees an app that was never started, or runs.
            started = self.pod.path / f"{STATUS}/{name}-started"
            started.unlink(missing_ok=True)
            (self.pod.path / f"{STATUS}/{name}").unlink(missing_ok=True)
            self.write(f"{STATUS}/{name}-started", f"{time.time():.6f}\n")
            with ExitStack() as undo:
                undo.callback(started.unlink, missing_ok=True)
                await self.start(name)
                undo.pop_all()
        return {}

    async def _on_stop_app(self, session: Session) -> dict[str, Any]:
        await self._stop_app(self._known(session))
        return {}

    async def _stop_app(self, name: str) -> None:
        """Return when it has ended: ten seconds after its stop signal it is killed."""
        run = self.runs.get(name)
        if run is None:
            return
        assert self.sandbox is not None
        run.unwanted = True
        with suppress(LaunchError):  # it has just ended, or is just being started
            await self.signal_stop(name)
        done, _ = await asyncio.wait([run.ended], timeout=GRACE)
        if not done:
            with suppress(LaunchError):
                await self.sandbox.signal_app(name, signal.SIGKILL)
            await asyncio.wait([run.ended])

    # -- remove -------------------------------------------------------------------------------------------

    async def _on_remove(self, session: Session) -> dict[str, Any]:
        async with self._changing:
            name = self._known(session)
            self._removing.add(name)
            try:
                await self._stop_app(name)
                assert self.sandbox is not None
                await self.sandbox.remove_app(name)
                manifest, volumes = parted(self.manifest, name)
                self._digests.pop(name, None)
                await self._change(manifest)
                await asyncio.to_thread(self._forget, name, volumes)
            finally:
                self._removing.discard(name)
            if pin := self._pins.pop(name, None):
                pin.close()
        return {}

    def _forget(self, name: str, volumes: set[str]) -> None:
        forget(self.pod.path, name, volumes)


def joined(
    manifest: Mapping[str, Any], entry: dict[str, Any], own: list[Any], asked: list[Any], *, docker: bool
) -> tuple[dict[str, Any], list[Fill]]:
    """The manifest with one app more, and what has to be put into its volumes. Failure.

    Volumes of its own get its name in theirs where theirs is taken, or when they are empty: those are not shared.
    """
    volumes = {volume["name"]: volume for volume in manifest.get("volumes") or ()}
    wanted = []
    for volume, path in own:
        name = volume["name"]
        if volume["kind"] == "empty" or (name in volumes and volumes[name] != volume):
            name = f"{entry['name']}-{name}"
        volumes[name] = {**volume, "name": name}
        wanted.append((name, path))
    entry["mounts"], fills = mounts(
        entry, [*wanted, *((str(volume), str(path)) for volume, path in asked)], volumes, docker=docker
    )
    made = {**manifest, "apps": [*manifest["apps"], entry], "volumes": list(volumes.values())}
    prepare.check_sources(made)
    return made, fills


def parted(manifest: Mapping[str, Any], app: str) -> tuple[dict[str, Any], set[str]]:
    """The manifest without an app, and the volumes that went with it."""
    left = [entry for entry in manifest["apps"] if entry["name"] != app]
    used = {mount["volume"] for entry in left for mount in entry.get("mounts") or ()}
    volumes = [volume for volume in manifest.get("volumes") or () if volume["name"] in used]
    gone = {volume["name"] for volume in manifest.get("volumes") or ()} - used
    return {**manifest, "apps": left, "volumes": volumes}, gone


def put_manifest(pod: Path, manifest: Mapping[str, Any]) -> None:
    """All of it or what was there before, whoever reads it meanwhile."""
    new = pod / ".pod.new"
    new.write_text(json.dumps(manifest))
    new.chmod(0o644)
    os.replace(new, pod / "pod")


def forget(pod: Path, app: str, volumes: set[str]) -> None:
    """Remove all files of an app that does not run. Slow: for a thread."""
    for name in ("", "-started", "-created"):
        (pod / f"{STATUS}/{app}{name}").unlink(missing_ok=True)
    places = [pod / "overlay" / app, pod / "stage1/rootfs/opt/stage2" / app, pod / "appsinfo" / app]
    for place in [*places, *(pod / "sharedVolumes" / name for name in volumes)]:
        if place.exists():
            remove_tree(place)
