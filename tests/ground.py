"""What pods in tests stand on: whether this machine can run them at all, and root file systems with busybox."""

import asyncio
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from executor.pods.launcher import Launcher, LaunchError


@cache
def why_no_pods() -> str:
    """Why pods cannot be started here; "" when they can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("busybox") is None:
        return "needs busybox-static"
    spaces = ["--mount", "--pid", "--ipc", "--uts", "--net", "--fork"]
    probe = subprocess.run(
        ["unshare", *spaces, "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        return f"namespaces: {probe.stderr.strip()}"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "no overlay file system"
    return "" if " - cgroup" in Path("/proc/self/mountinfo").read_text() else "no cgroups mounted"


def skip_root_tests(items: list[pytest.Item], folder: str, why: str) -> None:
    """Skips what is marked `root` below tests/`folder`; "" skips nothing. For `pytest_collection_modifyitems`."""
    for item in items:
        if why and item.get_closest_marker("root") and f"tests/{folder}/" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=why))


def put_busybox(root: Path, applets: str = "") -> None:
    """A static busybox in `root`/bin, under the names of these applets; under all of them by default."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox-static")
    names = applets or subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    (root / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    for name in names.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")


def need_launcher() -> None:
    """Skips where the launcher says that it cannot run."""

    async def probe() -> None:
        await (await Launcher.start(spares=0)).close()

    try:
        asyncio.run(probe())
    except LaunchError as error:
        able = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
        )
        if able.returncode == 0:
            raise  # this machine can: then the launcher is broken, which no skip shall hide
        pytest.skip(str(error))


def mounts(own: Path) -> list[str]:
    """What is mounted here, but for what other tests mount meanwhile in directories of theirs. own: ours."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    passing = ("/run/", "/tmp/", "/var/")
    return [line for line in lines if str(own) in line or not line.split()[4].startswith(passing)]
