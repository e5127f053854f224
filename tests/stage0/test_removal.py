"""Trees of images and apps are removed whatever they look like."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.stage0.removal import remove_tree

DEPTH = 3000


def deep(path: Path, depth: int = DEPTH) -> None:
    here = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """To be removed; what it has links to may not be."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("of the host")
    made = tmp_path / "tree"
    made.mkdir()
    yield made
    if made.exists():
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", made], check=False)
    subprocess.run(["rm", "-rf", made], check=True)
    assert (tmp_path / "outside/file").read_text() == "of the host"


def test_all_kinds_of_files(tree: Path) -> None:
    for name in ("a/b/c", "a/.0", ".0/.1", "locked/in", "d" * 255):
        (tree / name).mkdir(parents=True)
    (tree / "a/b/out").symlink_to(tree.parent / "outside")
    (tree / "link").symlink_to("..")
    os.mkfifo(tree / "a/fifo")
    os.link(tree.parent / "outside/file", tree / "a/hard")
    (tree / os.fsdecode(b"\xff\xfe")).touch()
    if os.geteuid() == 0:
        (tree / "locked").chmod(0)
    remove_tree(tree)
    assert not tree.exists()


def test_deeper_than_there_may_be_frames_paths_or_descriptors(tree: Path) -> None:
    deep(tree)
    few = (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    code = "import sys; from executor.stage0.removal import remove_tree; remove_tree(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, tree],
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few),
    )
    assert not tree.exists()


def test_no_link_in_its_place_is_followed(tree: Path) -> None:
    (tree / "link").symlink_to(tree.parent / "outside")
    with pytest.raises(OSError, match="link"):
        remove_tree(tree / "link")
    with pytest.raises(FileNotFoundError):
        remove_tree(tree / "nothing")


def protect(path: Path, how: str) -> None:
    done = subprocess.run(["chattr", how, path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_was_protected_from_being_changed(tree: Path) -> None:
    """Privileged apps can do that to what they write to a volume."""
    (tree / "kept/for").mkdir(parents=True)
    (tree / "kept/for/ever").touch()
    deep(tree / "kept", 30)
    protect(tree / "kept/for/ever", "+i")
    protect(tree / "kept/for", "+a")
    protect(tree / "kept" / "/".join("d" * 15), "+i")
    protect(tree / "kept", "+i")
    protect(tree, "+i")
    with pytest.raises(PermissionError):
        (tree / "kept/for/ever").unlink()
    remove_tree(tree)
    assert not tree.exists()
