"""`gantry uninstall` against the embedded Mesos: what it asks, what it refuses, what it leaves."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler import uninstall
from scheduler.config import Framework
from scheduler.framework import records
from scheduler.framework.core.entities import Task
from scheduler.store import Key, open_store
from shared.mesos import operator
from shared.mesos.scheduler_driver import Scheduler, SchedulerDriver

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORK = Framework("gantry", ("gantry",), "root", 3600.0, "", "h", "")


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("master")
    command = [sys.executable, "-m", "gantry", "master", "--ip", "127.0.0.1", "--port", "0"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--work_dir", str(directory)], stderr=subprocess.PIPE, env=environ, text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "listens on" in line:
                    yield line.split()[-1]
                    break
        finally:
            process.kill()


async def register(master: str) -> str:
    """A framework that goes away without an end; its id."""

    class Registering(Scheduler):  # type: ignore[misc]
        def registered(self, driver: Any, framework_id: Any, master_info: Any) -> None:
            there.set_result(framework_id["value"])

    there: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    driver = SchedulerDriver(Registering(), FRAMEWORK.info(""), master)
    await driver.start()
    async with asyncio.timeout(90):
        framework_id = await there
    await driver.stop()
    return framework_id


async def fill(path: Path, framework_id: str, *more: Key) -> None:
    """A store with a framework, a task that runs and a pod."""
    store = open_store(f"sqlite:{path}")
    await store.open()
    meta = {"metadata": {"name": "framework"}, "frameworkId": framework_id}
    task = records.task_object(Task("u.1", "u", "n", "p", 1, "S0", "node", "gantry.v.1"))
    pod = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}}
    await store.commit((records.FRAMEWORK, lambda _: meta), (records.task_key("u.1"), lambda _: task))
    for key in (Key("pods", "n", "p"), *more):
        await store.commit((key, lambda _: pod))
    await store.close()


def states(master: str, framework_id: str) -> tuple[bool, bool]:
    """Whether the master has it among the living, and among those that ended."""
    answer = asyncio.run(operator.call(master, {"type": "GET_FRAMEWORKS"}))["get_frameworks"]
    lists = (answer.get("frameworks") or [], answer.get("completed_frameworks") or [])
    ids = [[one["framework_info"]["id"]["value"] for one in listed] for listed in lists]
    return framework_id in ids[0], framework_id in ids[1]


def run(master: str, path: Path, *flags: str, ask: Callable[[str], str] | None = None) -> int:
    def unasked(question: str) -> str:
        raise AssertionError(f"asked: {question}")

    return uninstall.main(["--master", master, "--store", f"sqlite:{path}", *flags], ask or unasked)


def test_it_ends_the_framework_and_removes_the_state(
    master: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state.db"
    framework_id = asyncio.run(register(master))
    asyncio.run(fill(path, framework_id))
    assert states(master, framework_id) == (True, False)
    assert run(master, path, ask=lambda question: "gantry\n") == 0
    said = capsys.readouterr().out
    assert f"ends framework gantry ({framework_id})" in said
    assert "1 running pods are killed, 1 pods and all else" in said
    assert states(master, framework_id) == (False, True)
    assert list(tmp_path.iterdir()) == []


def test_what_ended_before_is_only_removed(master: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    framework_id = asyncio.run(register(master))
    asyncio.run(fill(path, framework_id))
    asyncio.run(
        operator.call(master, {"type": "TEARDOWN", "teardown": {"framework_id": {"value": framework_id}}})
    )
    assert run(master, path, "--yes") == 0
    assert not path.exists()


def test_another_answer_or_none_does_nothing(
    master: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(question: str) -> str:
        raise EOFError

    path = tmp_path / "state.db"
    framework_id = asyncio.run(register(master))
    asyncio.run(fill(path, framework_id))
    assert run(master, path, ask=lambda question: "yes") == 1
    assert run(master, path, ask=nobody) == 1
    assert "nothing was done; --yes does not ask" in capsys.readouterr().err
    assert states(master, framework_id) == (True, False)
    assert path.exists()


def test_a_store_in_use_or_missing_is_refused(
    master: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state.db"
    asyncio.run(fill(path, "F1"))

    async def meanwhile() -> int:
        store = open_store(f"sqlite:{path}")
        await store.open()
        try:
            return await asyncio.to_thread(run, master, path, "--yes")
        finally:
            await store.close()

    assert asyncio.run(meanwhile()) == 4
    assert "in use by another scheduler" in capsys.readouterr().err
    assert run(master, tmp_path / "nowhere.db", "--yes") == 4
    assert "there is none" in capsys.readouterr().err
    assert not (tmp_path / "nowhere.db").exists()


def test_a_record_of_a_volume_that_cannot_be_read_stops_it(
    master: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state.db"
    asyncio.run(fill(path, "F1", Key("persistentvolumes", "", "v1")))
    assert run(master, path, "--yes") == 4
    assert "the record of volume p cannot be read" in capsys.readouterr().err
    assert path.exists()


def test_without_a_master_the_state_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state.db"
    asyncio.run(fill(path, "F1"))
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{unheard.getsockname()[1]}"
        assert run(nobody, path, "--yes", "--timeout", "0.5") == 5
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("gantry: error: gave up after 0.5 s: cannot subscribe to")
    assert error.endswith("the state is kept")
    assert path.exists()


def test_wrong_flags_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nowhere", tmp_path / "s.db", "--yes") == 2
    assert run("127.0.0.1:1", tmp_path / "s.db", "--mesos-principal", "a") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
