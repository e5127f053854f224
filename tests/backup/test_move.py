"""A cluster moves from SQLite to ZooKeeper while its pods run: processes, from one store to the other."""

import signal

import pytest

from scheduler.backup.commands import backup, restore
from tests.engine.processes.local import Local

pytestmark = [pytest.mark.system]


@pytest.fixture
def local(tmp_path):
    started = Local(tmp_path)
    yield started
    started.stop()


def test_no_pod_notices(local, zookeeper, tmp_path, capsys):
    local.start("agent-1")
    local.create("a", "b")
    local.all_running(2)
    running, executors = local.running(), local.executor_pids()
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in local.items()}
    assert local.kill("scheduler", signal.SIGTERM) == 0
    url, file = f"zk://{zookeeper}/{tmp_path.name}", str(tmp_path / "backup")
    assert backup(["--store", f"sqlite:{tmp_path}/state.db", file]) == 0, capsys.readouterr().err
    assert restore(["--store", url, file]) == 0, capsys.readouterr().err
    local.start_scheduler("--store", url)
    local.all_running(2)
    local.create("c")
    local.all_running(3)
    assert {one["metadata"]["name"]: one["metadata"]["uid"] for one in local.items()}.items() >= uids.items()
    assert local.executor_pids() == executors
    assert set(running) <= set(local.running())
    local.assert_each_runs_once()
