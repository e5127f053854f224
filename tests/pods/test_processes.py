"""Whose processes a container sees, and what it is to be pid 1: as in Kubernetes, for real."""

import asyncio
import os
from typing import Any

import pytest

from executor.pods.core.effects import Report
from executor.pods.supplies import Supplies
from executor.stage1 import nspawn

pytestmark = pytest.mark.root

Host = Any
"""The machine of conftest."""
FOREVER = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done"


def shown(report: Report, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = report.status["containerStatuses"][number]
    return found


def ended(report: Report, number: int = 0) -> int:
    return int(shown(report, number)["state"]["terminated"]["exitCode"])


def runs(report: Report) -> bool:
    return report.state == "TASK_RUNNING"


def told(host: Host, task: str) -> list[str]:
    return [e.message for r in host.reports[task] for e in r.events if e.reason == "NotSupported"]


async def said(host: Host, script: str, app: str = "c0") -> str:
    """By a shell that is executed in a container of the pod p, all of it when it has ended."""
    read, write = os.pipe()
    with os.fdopen(read) as file:
        sandbox = host.pods.find("default", "p").sandbox
        made = await sandbox.exec(app, ["/bin/sh", "-c", script], streams=(write, write))
        os.close(write)
        text = await asyncio.to_thread(file.read)
    await made.ended
    return text


NSPAWN = pytest.mark.skipif(bool(nspawn.why_not()), reason=nspawn.why_not() or "-")
SEEN = "echo $(cat /proc/1/comm) $(grep -l '[t]rap' /proc/[0-9]*/cmdline 2>/dev/null | grep -c .)"


@pytest.mark.parametrize(
    ("share", "flavor", "seen"),
    [
        (None, "linux", "sh 1"),
        (False, "linux", "sh 1"),
        pytest.param(None, "nspawn", "sh 1", marks=NSPAWN),
        (True, "linux", "gantry-init 2"),
    ],
)
async def test_whose_processes_a_container_sees(
    host: Host, share: bool | None, flavor: str, seen: str
) -> None:
    """Its own, unless the pod says that they are all containers': then the pod's init is pid 1."""
    spec: dict[str, Any] = {} if share is None else {"shareProcessNamespace": share}
    app = "trap 'exit 3' TERM; while :; do read -t 1000 line; done < /dev/ptmx"  # which forks nothing
    task = host.run(*[{"run": app}] * 2, runtimeClassName=flavor, supplies=Supplies(flavor), **spec)
    await host.until(task, runs)
    assert (await said(host, SEEN)).strip() == seen
    host.pods.kill(task, 10.0, "deleted")
    report = await host.end(task)
    assert [ended(report, number) for number in (0, 1)] == [3, 3]
    assert told(host, task) == []


async def test_a_flavor_that_cannot_says_so_who_asked_for_it(host: Host) -> None:
    for share, count in ((None, 0), (True, 0), (False, 1)):
        spec: dict[str, Any] = {} if share is None else {"shareProcessNamespace": share}
        task = host.run({"run": "true"}, runtimeClassName="fly", supplies=Supplies("fly"), **spec)
        await host.end(task)
        assert len([one for one in told(host, task) if one.startswith("shareProcessNamespace: ")]) == count


async def test_pid_1_without_a_handler_is_killed_when_its_grace_is_over(host: Host) -> None:
    """The kernel ignores SIGTERM for it (pid_namespaces(7)), in the default of Kubernetes alone."""
    for share, how in ((False, 137), (True, 143)):
        task = host.run(
            {"command": ["/bin/sleep", "1000"]}, name=f"p{share}".lower(), shareProcessNamespace=share
        )
        await host.until(task, runs)
        host.pods.kill(task, 0.2, "deleted")
        assert ended(await host.end(task)) == how


async def test_a_container_can_be_ended_from_within_and_starts_again(host: Host) -> None:
    """As by `kubectl exec POD -- kill 1`: its end is that of all it has started, and the next one is pid 1 again."""
    app = f"echo $$$$; (trap '' TERM; setsid sleep 1000 >&- 2>&-) & {FOREVER}"
    task = host.run({"run": app}, restartPolicy="Always")
    await host.until(task, runs)
    assert await said(host, "kill -9 1; kill -0 1 && kill 1") == ""
    await host.until(task, lambda r: shown(r)["restartCount"] == 1 and "running" in shown(r)["state"])
    assert await host.log("p", previous=True) == "1\nup\nbye\n"
    host.pods.kill(task, 0.0, "deleted")
    await host.end(task)


async def test_hooks_probes_and_messages_are_of_the_container(host: Host) -> None:
    look = {"exec": {"command": ["sh", "-c", "kill -0 1 && test $(cat /proc/1/comm) = sh"]}}
    app = {
        "run": "trap 'cat /tmp/seen > /said/last; exit 5' TERM; while :; do sleep 0.02; done",
        "readinessProbe": {**look, "periodSeconds": 0.05},
        "startupProbe": {**look, "periodSeconds": 0.05},
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "cat /proc/1/comm > /tmp/seen"]}}},
        "terminationMessagePath": "/said/last",
    }
    task = host.run(app)
    await host.until(task, lambda r: bool(shown(r)["ready"]))
    host.pods.kill(task, 10.0, "deleted")
    report = await host.end(task)
    assert (ended(report), shown(report)["state"]["terminated"]["message"]) == (5, "sh\n")
