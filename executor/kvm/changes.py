"""Apps that come to a machine which runs, and go: what virtiofsd shows it then, and what its launcher is told.

A pod that was started without apps may have them later (`gantry rkt app`). Its machine was given two empty directories
for images and volumes; what is mounted on them in virtiofsd's mount namespace, and nowhere else, ends with it.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Final

from executor.kvm import machine, shares
from executor.kvm.guest.main import SHARE
from executor.kvm.machine import FILES, PLACES, Size
from executor.pods.launcher import LaunchError
from executor.stage1 import manifest, userns
from executor.stage1.manifest import ManifestError

_ROOT: Final = str(Path(__file__).resolve().parents[2])
_CODE: Final = (
    f"import sys; sys.path.insert(0, {_ROOT!r}); from executor.kvm.later import main; sys.exit(main())"
)


class Changes:
    """Of one pod. directory: the machine's; pid: virtiofsd's."""

    def __init__(self, pod_dir: Path, directory: Path, size: Size, pid: int) -> None:
        self._pod_dir = pod_dir
        self._directory = directory
        self._size = size
        self._pid = pid
        self._first = self._read()
        self._shown: dict[str, dict[str, Any]] = {}
        self._wanted: dict[str, dict[str, Any]] = {}

    async def begin(self) -> dict[str, Any]:
        """Show what the pod's manifest has more than before. Returns the pod. Raises LaunchError."""
        try:
            pod = self._read()
            self._check(pod)
        except (ManifestError, machine.MachineError) as error:
            raise LaunchError(str(error)) from None
        machine.make_places(self._pod_dir, pod)
        layers = {
            app["name"]: (self._pod_dir / "appsinfo" / app["name"] / "lower").read_text().splitlines()
            for app in pod["apps"]
        }
        volumes, mounts = machine.shown(pod, layers, str(self._pod_dir))
        known = {volume["name"]: volume for volume in volumes}
        self._wanted = {mount["path"]: {"mount": mount, "volume": known[mount["volume"]]} for mount in mounts}
        if stale := [path for path, one in self._shown.items() if self._wanted.get(path, one) != one]:
            raise LaunchError(f"{stale[0]}: what a machine was given under a name stays what it is")
        await self._run([one for path, one in self._wanted.items() if path not in self._shown], [])
        return pod

    async def end(self, *, well: bool) -> None:
        """The machine knows of it, or will not: what is needed no more is shown no more."""
        kept, other = (self._wanted, self._shown) if well else (self._shown, self._wanted)
        gone = [path for path in other if path not in kept]
        self._shown = kept
        await self._run([], gone)

    def _read(self) -> dict[str, Any]:
        pod: dict[str, Any] = json.loads((self._pod_dir / "pod").read_text())
        return pod

    def _check(self, pod: dict[str, Any]) -> None:
        """Raises MachineError, ManifestError."""
        machine.check(pod)
        asked = manifest.read(json.dumps(machine.guest_manifest(pod, {})))
        if asked.highest_id >= userns.SIZE:
            raise machine.MachineError(
                f"user or group {asked.highest_id}: above {userns.SIZE - 1} there are none in this machine"
            )
        most = max((app.limits.memory_limit or 0 for app in asked.apps.values()), default=0)
        if most > (has := machine.memory_of_apps(self._first)):
            has //= machine.MIB
            raise machine.MachineError(f"a memory limit of {most} bytes: the machine has {has} MiB for apps")
        if any(volume.get("gantry.io/medium") for volume in pod.get("volumes") or ()):
            raise machine.MachineError("volumes in memory are made when the pod starts")
        if set(shares.sockets(pod)) - set(shares.sockets(self._first)):
            raise machine.MachineError("sockets of the host are made when the pod starts")

    async def _run(self, more: list[dict[str, Any]], gone: list[str]) -> None:
        """Raises LaunchError."""
        if not more and not gone:
            return
        app = {"name": FILES, "app": {"exec": ["/"], "user": "0", "group": "0"}}
        volumes = {one["volume"]["name"]: one["volume"] for one in more}
        request = {
            "pid": self._pid,
            "manifest": {
                "acVersion": self._first["acVersion"],
                "acKind": "PodManifest",
                "apps": [{**app, "mounts": [one["mount"] for one in more]}],
                "volumes": list(volumes.values()),
            },
            "places": {f"{SHARE}/{name}": str(self._directory / name) for name in PLACES},
            "place": str(self._directory / PLACES[0]),
            "gone": gone,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _CODE),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate(json.dumps(request).encode())
        if process.returncode:
            lines = said.decode("utf-8", "replace").strip().splitlines() or ["it has just ended"]
            raise LaunchError(f"change what the machine is shown: {lines[-1]}")
