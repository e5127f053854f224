"""Collecting what is left of pods, killed at every step and begun again: in the end nothing is left, as ever.

A child makes the collection and kills itself before its Nth operation (PEP 578: what it asks of the system is audited);
then another makes all of it. N grows until a child gets to its end.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_KILL_AT_EVERY_STEP = """
import os, signal, sys
STEPS = ("os.", "shutil.", "open")

def in_a_child(work, limit):
    pid = os.fork()
    if pid == 0:
        seen = 0
        def count(event, arguments):
            nonlocal seen
            if event.startswith(STEPS):
                seen += 1
                if seen == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
        if limit:
            sys.addaudithook(count)
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def everywhere(prepare, work, check):
    limit, codes = 0, []
    while True:
        limit += 1
        prepare(limit)
        codes.append(in_a_child(work, limit))
        again = in_a_child(work, 0)
        assert again == 0, (limit, again)
        assert in_a_child(work, 0) == 0, limit
        check(limit)
        if codes[-1] == 0:
            break
        assert codes[-1] == -signal.SIGKILL, codes
    return limit
"""

_POD_DIRECTORIES = (
    _KILL_AT_EVERY_STEP
    + """
from pathlib import Path
from executor.pods.poddir import Phase, PodDirs

root = Path(sys.argv[1])
dirs = PodDirs(root)
dirs.open()

def prepare(limit):
    for phase in (Phase.PREPARE, Phase.EXITED):
        path = root / phase / f"pod-{limit}-{phase}"
        (path / "overlay/app/upper/deep/er").mkdir(parents=True)
        (path / "overlay" / "app" / "work" / "work").mkdir(parents=True)
        (path / "overlay" / "app" / "work" / "work").chmod(0)
        (path / "overlay/app/upper/link").symlink_to(sys.argv[2])
        (path / "overlay/app/upper/door").symlink_to(os.path.dirname(sys.argv[2]))
        os.mkfifo(path / "fifo")
        (path / "pod").write_text("{")

def check(limit):
    left = [str(path) for phase in Phase for path in (root / phase).iterdir()]
    assert not left, (limit, left)

print(everywhere(prepare, dirs.collect, check))
"""
)

_CGROUPS = (
    _KILL_AT_EVERY_STEP
    + """
import json
from executor.stage1 import cgroups
from executor.stage1.launcher import collect

layout = cgroups.Layout(1, json.loads(sys.argv[1]))
children = []

def prepare(limit):
    sleepers = [os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}) for _ in range(3)]
    children[:] = sleepers
    for root in layout.roots:
        for name, pid in zip(("one", "two", "two/below"), sleepers, strict=True):
            path = f"{root}/gantry.pod-{limit}/{name}"
            os.makedirs(path)
            with open(f"{path}/cgroup.procs", "w") as file:
                file.write(str(pid))

def check(limit):
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [-9] * 3
    left = [entry.path for root in layout.roots for entry in os.scandir(root) if entry.is_dir()]
    assert not left, (limit, left)

for root in layout.roots:
    os.mkdir(root)
try:
    print(everywhere(prepare, lambda: collect(layout, seconds=20.0), check))
finally:
    for pid in children:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    collect(layout, seconds=5.0)
    for root in layout.roots:
        os.rmdir(root)
"""
)


def run(script: str, *arguments: str) -> int:
    """How many steps there were."""
    command = [sys.executable, "-c", script, *arguments]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert made.returncode == 0, made.stderr
    return int(made.stdout)


def test_pod_directories(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    outside = tmp_path / "outside" / "file"
    outside.write_text("of the host")
    assert run(_POD_DIRECTORIES, str(tmp_path / "pods"), str(outside)) > 50
    assert outside.read_text() == "of the host"


@pytest.mark.root
def test_cgroups(request: Any) -> None:
    from executor.stage1 import cgroups

    detected = cgroups.detect(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if detected.version != 1:
        pytest.skip("the hierarchy of v2 is walked likewise, in test_cgroups.py")
    name = f"gantry-test-gc-{os.getpid()}"
    base = {controller: f"{path}/{name}" for controller, path in detected.base.items()}
    assert run(_CGROUPS, json.dumps(base)) > 20
