"""A snapshot of a file that is being written is one moment of it, whatever the log does meanwhile."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.backup import sqlite
from scheduler.store import StoreError

WRITER = """
import asyncio, sys
from pathlib import Path
from scheduler.store import Key
from scheduler.store import sqlite
sqlite.CHECKPOINT_IDLE = sqlite.CHECKPOINT_MUST = 60_000
sqlite.IDLE = 0.001

async def main():
    store = sqlite.SqliteStore(Path(sys.argv[1]))
    await store.open()
    await store.lead(0)
    number = 0
    while True:
        number += 1
        obj = {"number": number, "padding": "x" * (number * 37 % 9000)}
        await store.commit(*((Key("pods", "", str(i)), lambda old: {**obj}) for i in range(5)))
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def writer(tmp_path):
    root = Path(__file__).parents[2]
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", WRITER, str(tmp_path / "s.db")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(root)}, cwd=root
    )
    yield process
    process.kill()
    process.stdout.read()
    process.stdout.close()
    process.wait()


def numbers(path):
    with sqlite.snapshot(path) as found:
        objects = [json.loads(row.blob) for row in found.rows if row.key.resource == "pods"]
    return {one["number"] for one in objects}, len(objects)


def test_a_snapshot_of_a_busy_store_is_one_moment(writer, tmp_path):
    seen = []
    for _ in range(30):
        acknowledged = int(writer.stdout.readline())
        found, count = numbers(tmp_path / "s.db")
        assert (len(found), count) == (1, 5)  # one commit, all of it
        assert max(found) >= acknowledged  # what was acknowledged is in
        seen.append(max(found))
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_a_snapshot_after_the_end(writer, tmp_path):
    acknowledged = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    acknowledged = max([acknowledged, *map(int, writer.stdout.read().split("\n")[:-1])])
    assert max(numbers(tmp_path / "s.db")[0]) >= acknowledged
    assert {one.name for one in tmp_path.iterdir()} <= {"s.db", "s.db-wal", "s.db-shm"}


def test_another_programs_file_is_refused(tmp_path):
    (tmp_path / "f").write_bytes(b"nothing of ours" * 1000)
    with pytest.raises(StoreError, match=r"store .*/f: cannot be copied"), sqlite.snapshot(tmp_path / "f"):
        pass
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(StoreError, match="not a store of Gantry"), sqlite.snapshot(tmp_path / "f"):
        pass
