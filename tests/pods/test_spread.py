"""Which directories are marked, on real file systems."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from executor.pods.poddir import PodDirs
from executor.pods.spread import spread

_SCRIPT = """
import fcntl, os, struct, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from executor.pods.spread import spread
place = Path(sys.argv[1], "embryo")
place.mkdir()
for _ in range(2):
    spread(place)
fd = os.open(place, os.O_RDONLY)
print(bool(struct.unpack("i4x", fcntl.ioctl(fd, 0x80086601, bytes(8)))[0] & 0x20000))
groups = set()
for number in range(40):
    made = place / str(number)
    made.mkdir()
    (made / "file").write_bytes(b"")
    of_group = lambda path: (path.stat().st_ino - 1) // int(sys.argv[3])
    assert of_group(made) == of_group(made / "file")
    groups.add(of_group(made))
print(len(groups))
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
    marked, groups = ran.stdout.split()
    assert marked == str(not journal)
    assert (int(groups) > 4) is not journal


def test_other_file_systems_are_left_alone(tmp_path: Path) -> None:
    for place in (Path("/dev/shm"), tmp_path / "missing"):
        spread(place)


def test_the_place_where_pods_are_made_is_marked_if_anything_is(tmp_path: Path) -> None:
    dirs = PodDirs(tmp_path / "pods")
    dirs.open()
    other = tmp_path / "other"
    other.mkdir()
    spread(other)
    flags = [
        subprocess.run(["lsattr", "-d", place], capture_output=True, text=True, check=False).stdout.split(
            " "
        )[0]
        for place in (dirs.root / "embryo", other)
    ]
    assert flags[0] == flags[1]
    assert os.listdir(other) == []
