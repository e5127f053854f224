"""Where directories are made, on real file systems."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from executor.pods.poddir import PodDirs
from executor.pods.spread import Spread

_SCRIPT = """
import os, shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from executor.pods.poddir import PodDirs
dirs = PodDirs(Path(sys.argv[1], "pods"), spread=True)
for _ in range(2):
    dirs.open()
groups = set()
for number in range(40):
    pod = dirs.create(str(number))
    (pod.path / "file").write_bytes(b"")
    of_group = lambda path: (path.stat().st_ino - 1) // int(sys.argv[3])
    assert of_group(pod.path) == of_group(pod.path / "file")
    assert pod.path.stat().st_mode & 0o777 == 0o750
    groups.add(of_group(pod.path))
print(len(groups), len(list(dirs.root.glob("places/*"))))
try:
    dirs.create("39")
except FileExistsError:
    print("there")
for place in dirs.root.glob("places/*"):
    (place / "4194305.1").mkdir()  # no pid that there can be
    (place / f"{os.getpid()}.1000000").mkdir()
dirs.collect()
assert all(os.listdir(place) == [f"{os.getpid()}.1000000"] for place in dirs.root.glob("places/*"))
shutil.rmtree(dirs.root / "places", ignore_errors=True)
assert dirs.create("more").path.is_dir()
"""
_INODES_OF_A_GROUP = 1024


@pytest.mark.root
@pytest.mark.parametrize("journal", [False, True])
def test_pods_are_spread_where_inodes_wait_for_being_taken_again(tmp_path: Path, *, journal: bool) -> None:
    disk, place = tmp_path / "disk", tmp_path / "place"
    place.mkdir()
    features = ["-O", f"{'' if journal else '^'}has_journal,^flex_bg", "-N", str(_INODES_OF_A_GROUP * 8)]
    with disk.open("wb") as file:
        file.truncate(8 * 8192 * 1024)  # eight groups of blocks of 1 KiB
    done = subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-b", "1024", *features, disk], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    script = 'mount -o loop "$1" "$2" || exit 77; shift 2; exec "$@"'
    root, inodes = Path(__file__).parents[2], str(_INODES_OF_A_GROUP)
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", disk, place, sys.executable, "-c", _SCRIPT, place, root, inodes],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode == 77:
        pytest.skip(f"no loop device: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    groups, places, there = ran.stdout.split()
    assert there == "there"
    assert int(places) == (0 if journal else 40)
    assert (int(groups) > 4) is not journal


def test_other_file_systems_are_left_alone() -> None:
    spread = Spread(Path(f"/dev/shm/none-{os.getpid()}"))
    spread.open()
    assert not os.path.exists(f"/dev/shm/none-{os.getpid()}")
    spread.collect()


def test_a_directory_is_made_where_it_belongs(tmp_path: Path) -> None:
    dirs = PodDirs(tmp_path / "pods", spread=True)
    dirs.open()
    pod = dirs.create("p")
    assert pod.path == tmp_path / "pods" / "embryo" / "p"
    assert pod.path.is_dir()
    assert not list(dirs.root.glob("places/*/*"))
    pod.remove()
