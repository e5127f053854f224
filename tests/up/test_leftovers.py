"""Collecting the cgroups of a killed cluster: on a directory tree, and on the kernel's own."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from local import leftovers

MEMORY = Path("/sys/fs/cgroup/memory")


def test_only_the_named_cgroups_are_removed(tmp_path):
    for path in ("memory/gantry-a-1/executor/pod", "cpu/gantry-a-2", "cpu/gantry-b-1", "gantry-a-1"):
        (tmp_path / path).mkdir(parents=True)
    removed = leftovers.collect("gantry-a-", tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in removed) == [
        "cpu/gantry-a-2",
        "gantry-a-1",
        "memory/gantry-a-1",
    ]
    assert (tmp_path / "cpu/gantry-b-1").is_dir()


def test_an_empty_prefix_would_be_everything_and_is_refused(tmp_path):
    with pytest.raises(ValueError, match="every cgroup"):
        leftovers.collect("", tmp_path)


def test_without_cgroups_there_is_nothing_to_collect(tmp_path):
    assert leftovers.collect("gantry-", tmp_path / "absent") == []


@pytest.mark.root
@pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="no writable cgroup v1 memory hierarchy")
def test_what_runs_in_a_cgroup_is_killed_and_the_cgroup_goes():
    prefix = f"gantry-test-{uuid.uuid4().hex[:8]}-"
    inner = MEMORY / f"{prefix}agent" / "inner"
    inner.mkdir(parents=True)
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (inner / "cgroup.procs").write_text(str(process.pid))
        assert leftovers.collect(prefix) == [inner.parent]
        assert process.wait(timeout=60) == -9
        assert not inner.parent.exists()
    finally:
        process.kill()
        process.wait()
        if inner.parent.exists():
            leftovers.remove_cgroup(inner.parent)
