"""Exit statuses get to whoever expects them, however many children there are that nobody has asked for."""

import os
import subprocess
import sys

import pytest

BEGIN = """
import os, signal
from executor.stage1.reaper import Reaper

def child(code):
    pid = os.fork()
    if not pid:
        os._exit(code)
    return pid

def reap():
    while not ended(os.P_ALL, 0):
        pass
    return reaper.reap()

def ended(what, which):
    return os.waitid(what, which, os.WEXITED | os.WNOWAIT) is not None

seen = []
def tell(status):
    seen.append(os.waitstatus_to_exitcode(status))

reaper = Reaper()
"""
CASES = {
    "one that is expected": """
pid = child(3)
reaper.expect(pid, tell)
assert pid in reaper.expected
reap()
assert seen == [3] and not reaper.expected
""",
    "one that has ended before it is expected": """
reaper.starting = 1
pid = child(4)
reap()
reaper.expect(pid, tell)
assert seen == [4]
reaper.expect(pid, tell)
assert seen == [4], "once"
""",
    "a stranger while nothing is being started": """
pid = child(4)
reap()
reaper.expect(pid, tell)
assert seen == []
""",
    "strangers of starts that have ended": """
reaper.starting = 2
pid = child(4)
reap()
reaper.started()
reaper.started()
reaper.expect(pid, tell)
assert seen == []
""",
    "one whose pid a stranger had": """
reaper.starting = 1
stranger = child(5)
reap()
reader, writer = os.pipe()
pid = os.fork()
if not pid:
    os.close(writer)
    os.read(reader, 1)
    os._exit(6)
os.close(reader)
reaper._early[pid] = reaper._early.pop(stranger)  # the kernel would have to go round all pids
reaper.expect(pid, tell)
assert seen == []
os.close(writer)
reap()
assert seen == [6]
""",
    "many strangers": """
reaper.starting = 1
pids = [child(0) for _ in range(300)]
for pid in pids:
    ended(os.P_PID, pid)
assert reaper.reap(), "not all at once"
assert not reaper.reap()
assert not reaper.reap()
""",
}


@pytest.mark.parametrize("case", CASES)
def test_who_ends(case: str) -> None:
    """In a process of its own: it waits for whatever children there are."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + CASES[case]], cwd=os.getcwd(), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
