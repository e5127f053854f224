"""A cluster moves from SQLite to ZooKeeper while its pods run: processes, from one store to the other."""

import importlib.util
import signal
from pathlib import Path

import pytest

from scheduler.backup.commands import backup, restore

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def _load(path):
    spec = importlib.util.spec_from_file_location("engine_processes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_processes = _load(Path(__file__).parents[1] / "engine" / "processes" / "conftest.py")


@pytest.fixture
def local(tmp_path):
    started = _processes.Local(tmp_path)
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
