"""Whatever is killed, whenever: what lives goes on or its successor does, and nothing is left (killer.py, shell.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from executor.rkt.cli import main as rkt
from executor.stage0 import acmanifest
from executor.stage0.build import Options, build_aci, build_oci
from executor.stage1 import nspawn
from tests.ground import put_busybox, why_no_pods

ROOT = Path(__file__).resolve().parents[2]
SEED = os.environ.get("GANTRY_SEED", "7")
KILLS = int(os.environ.get("GANTRY_KILLS", "40"))
OPTIONS = Options(env=("PATH=/bin",), compression="none")
EACH = 100  # a round
FLAVORS = ["linux", "linux", "fly", *(["nspawn"] if not nspawn.why_not() else [])]

pytestmark = [pytest.mark.root, pytest.mark.timeout(300 + 2 * KILLS)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with localhost/busybox:1."""
    if why_no_pods():
        pytest.skip(why_no_pods())
    base = tmp_path_factory.mktemp("killed")
    put_busybox(base / "rootfs", "sh cat head kill setsid sleep yes")
    build_oci(base / "rootfs", base / "images/busybox", "1", OPTIONS)
    return base / "images"


def test_anything(images: Path, tmp_path: Path) -> None:
    killed = kill_executors(images, tmp_path, "anything")
    assert killed["executor"] > 0


def test_anything_but_the_executor(images: Path, tmp_path: Path) -> None:
    """It goes on, whatever becomes of its launcher and its pods."""
    killed = kill_executors(images, tmp_path, "pods", "--spare", "executor")
    assert killed["gantry-launcher"] > 0


def test_what_a_shell_runs(images: Path, tmp_path: Path) -> None:
    """`gantry rkt run` and `gantry rkt gc`."""
    manifest = acmanifest.manifest_for("example.com/box", OPTIONS)
    build_aci(images.parent / "rootfs", tmp_path / "box.aci", manifest, OPTIONS, "none")
    flags = [f"--dir={tmp_path}/data", f"--local-config={tmp_path}/etc", f"--system-config={tmp_path}/etc"]
    assert rkt([*flags, "--insecure-options=image", "fetch", str(tmp_path / "box.aci")]) == 0
    kill("shell.py", tmp_path, "--seed", SEED, "--kills", str(KILLS // 4))


def kill_executors(images: Path, directory: Path, name: str, *more: str) -> dict[str, int]:
    (directory / "images").symlink_to(images)
    rounds, kills = max(1, KILLS // EACH), min(KILLS, EACH)
    counts = ["--rounds", str(rounds), "--kills", str(kills)]
    killed = kill("killer.py", directory, "--seed", f"{SEED} {name}", *counts, "--flavors", *FLAVORS, *more)
    assert sum(killed.values()) == rounds * kills
    return killed


def kill(program: str, directory: Path, *arguments: str) -> dict[str, int]:
    """What has been killed, by kind. It fails with what has gone wrong."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), str(directory), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = (directory / "stderr").read_text(errors="replace")
    assert done.returncode == 0, f"{done.stdout}\n{said[-8000:]}"
    assert "Traceback" not in said, said[-8000:]
    killed: dict[str, int] = json.loads(done.stdout.splitlines()[-1])["killed"]
    return killed
