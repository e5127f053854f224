"""What machines are started with, of former times: it goes when nobody uses it, whatever is killed meanwhile."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from executor.kvm import kept

NOW, OLD = "a" * 16, "b" * 16
LATER = 3 * 86_400
HOLD = """
import sys; from pathlib import Path; from executor.kvm import kept
kept.hold(Path(sys.argv[1])); print(flush=True); sys.stdin.read()
"""


def put(place: Path) -> None:
    for name in ("kernel", "root.cpio"):
        (place / name).write_text("x")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_nobody_has_used_for_long_goes(tmp_path: Path) -> None:
    for name in ("system", "templates", NOW, OLD):
        (tmp_path / name).mkdir()
    (tmp_path / "accelerator.json").write_text("{}")
    before = time.time() - LATER
    for name in names(tmp_path):
        os.utime(tmp_path / name, (before, before))
    fd = kept.hold(tmp_path / NOW)
    put(tmp_path / NOW)
    put(tmp_path / OLD)
    os.utime(tmp_path / OLD, (before, before))
    assert kept.collect(tmp_path) == [tmp_path / OLD]
    assert names(tmp_path) == {"system", "templates", "accelerator.json", NOW}
    assert kept.collect(tmp_path, time.time() + LATER) == [], "it is held"
    os.close(fd)
    assert kept.collect(tmp_path) == [], "it was used just now"
    assert kept.collect(tmp_path, time.time() + LATER) == [tmp_path / NOW]
    assert names(tmp_path) == {"system", "templates", "accelerator.json"}


def test_what_another_process_uses_stays_until_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / OLD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.read(1) == b"\n"
        put(tmp_path / OLD)
        assert kept.collect(tmp_path, time.time() + LATER) == []
        other.kill()
        other.wait(60)
    assert kept.collect(tmp_path, time.time() + LATER) == [tmp_path / OLD]


def test_what_a_kill_has_left_is_nobody_s_and_goes(tmp_path: Path) -> None:
    (tmp_path / "removed-1").mkdir()
    put(tmp_path / "removed-1")
    assert kept.collect(tmp_path) == []
    assert names(tmp_path) == set()


def test_whoever_makes_what_is_being_removed_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the lock of one that goes meanwhile."""
    os.close(kept.hold(tmp_path / OLD))
    put(tmp_path / OLD)
    flock, calls = kept.fcntl.flock, []

    def late(fd: int, how: int) -> None:
        if not calls:
            calls.append(how)
            assert kept.collect(tmp_path, time.time() + LATER) == [tmp_path / OLD]
        flock(fd, how)

    monkeypatch.setattr(kept.fcntl, "flock", late)
    fd = kept.hold(tmp_path / OLD)
    assert names(tmp_path / OLD) == {"used"}
    assert kept.collect(tmp_path, time.time() + LATER) == []
    os.close(fd)
