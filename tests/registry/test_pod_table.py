"""The status word and the other cells of `kubectl get pods`."""

import pytest

from scheduler.registry.cells import human_duration
from scheduler.registry.pod_table import COLUMNS, pod_row


def running(**more):
    return {"name": "a", "ready": True, "state": {"running": {}}, **more}


def ended(code=0, **more):
    return {"name": "a", "state": {"terminated": {"exitCode": code, **more}}}


def waiting(reason, **more):
    return {"name": "a", "state": {"waiting": {"reason": reason}}, **more}


READY = [{"type": "Ready", "status": "True"}]
INITIALIZED = [{"type": "Initialized", "status": "True"}]
BACK_OFF = waiting(
    "CrashLoopBackOff", restartCount=3, lastState={"terminated": {"finishedAt": "2024-05-01T11:59:55Z"}}
)


def row(now, status, *, containers=1, init=(), metadata=None, **spec):
    pod = {
        "metadata": {"name": "web", "creationTimestamp": "2024-05-01T11:57:00Z", **(metadata or {})},
        "spec": {"containers": [{"name": str(one)} for one in range(containers)], **spec},
        "status": status,
    }
    if init:
        pod["spec"]["initContainers"] = list(init)
    cells = pod_row(pod, now)
    assert len(cells) == len(COLUMNS)
    return cells


@pytest.mark.parametrize(
    ("status", "ready", "word", "restarts"),
    [
        ({"phase": "Pending"}, "0/1", "Pending", "0"),
        ({"phase": "Failed", "reason": "Evicted"}, "0/1", "Evicted", "0"),
        ({"phase": "Running", "containerStatuses": [running()]}, "1/1", "Running", "0"),
        ({"phase": "Running", "containerStatuses": [running(ready=False)]}, "0/1", "Running", "0"),
        (
            {"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]},
            "0/1",
            "ContainerCreating",
            "0",
        ),
        (
            {"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff")]},
            "0/1",
            "ImagePullBackOff",
            "0",
        ),
        ({"phase": "Running", "containerStatuses": [BACK_OFF]}, "0/1", "CrashLoopBackOff", "3 (5s ago)"),
        ({"phase": "Running", "containerStatuses": [running(restartCount=2)]}, "1/1", "Running", "2"),
        ({"phase": "Succeeded", "containerStatuses": [ended(reason="Completed")]}, "0/1", "Completed", "0"),
        ({"phase": "Failed", "containerStatuses": [ended(1, reason="Error")]}, "0/1", "Error", "0"),
        ({"phase": "Failed", "containerStatuses": [ended(3)]}, "0/1", "ExitCode:3", "0"),
        ({"phase": "Failed", "containerStatuses": [ended(137, signal=9)]}, "0/1", "Signal:9", "0"),
        (
            {
                "phase": "Running",
                "containerStatuses": [ended(reason="Completed"), running()],
                "conditions": READY,
            },
            "1/1",
            "Running",
            "0",
        ),
        (
            {"phase": "Running", "containerStatuses": [ended(reason="Completed"), running()]},
            "1/1",
            "NotReady",
            "0",
        ),
        (
            {"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]},
            "0/1",
            "SchedulingGated",
            "0",
        ),
    ],
)
def test_the_word_for_containers(now, status, ready, word, restarts):
    assert row(now, status)[1:4] == [ready, word, restarts]


TWO = ({"name": "a"}, {"name": "b"})


@pytest.mark.parametrize(
    ("statuses", "more", "word", "restarts"),
    [
        ([waiting("PodInitializing")], {}, "Init:0/2", "0"),
        ([ended(), running(name="b")], {}, "Init:1/2", "0"),
        ([waiting("ErrImagePull")], {}, "Init:ErrImagePull", "0"),
        ([BACK_OFF], {}, "Init:CrashLoopBackOff", "3 (5s ago)"),
        ([ended(1, reason="Error")], {}, "Init:Error", "0"),
        ([ended(2)], {}, "Init:ExitCode:2", "0"),
        ([ended(137, signal=9)], {}, "Init:Signal:9", "0"),
        ([{**ended(), "restartCount": 4}, ended()], {"containerStatuses": [running()]}, "Running", "0"),
        (
            [waiting("CrashLoopBackOff"), ended()],
            {"containerStatuses": [waiting("CrashLoopBackOff")], "conditions": INITIALIZED},
            "CrashLoopBackOff",
            "0",
        ),
    ],
)
def test_the_word_for_init_containers(now, statuses, more, word, restarts):
    phase = "Running" if "containerStatuses" in more else "Pending"
    cells = row(now, {"phase": phase, "initContainerStatuses": statuses, **more}, init=TWO)
    assert cells[2:4] == [word, restarts]


def test_sidecars_count_as_containers(now):
    sidecar = {"name": "a", "restartPolicy": "Always"}
    status = {
        "phase": "Running",
        "initContainerStatuses": [running(started=True, restartCount=2)],
        "containerStatuses": [running(restartCount=1)],
    }
    assert row(now, status, init=[sidecar])[1:4] == ["2/2", "Running", "3"]


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({"phase": "Running", "containerStatuses": [running()]}, "Terminating"),
        ({"phase": "Succeeded", "containerStatuses": [ended(reason="Completed")]}, "Completed"),
        ({"phase": "Running", "reason": "NodeLost"}, "Unknown"),
    ],
)
def test_the_word_for_a_deleted_pod(now, status, word):
    assert row(now, status, metadata={"deletionTimestamp": "2024-05-01T12:00:00Z"})[2] == word


def test_the_other_cells(now):
    status = {
        "phase": "Running",
        "podIPs": [{"ip": "10.0.0.7"}],
        "nominatedNodeName": "agent2",
        "conditions": [{"type": "a", "status": "True"}, {"type": "b", "status": "False"}],
    }
    gates = [{"conditionType": "a"}, {"conditionType": "b"}]
    cells = row(now, status, nodeName="agent1", readinessGates=gates)
    assert cells == ["web", "0/1", "Running", "0", "3m", "10.0.0.7", "agent1", "agent2", "1/2"]
    assert row(now, {"podIP": "10.0.0.8"})[5:] == ["10.0.0.8", "<none>", "<none>", "<none>"]
    assert row(now, {}, metadata={"creationTimestamp": None})[4:6] == ["<unknown>", "<none>"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (3600 * 3 - 1, "179m"),
        (3600 * 3, "3h"),
        (3600 * 3 + 60, "3h1m"),
        (3600 * 8, "8h"),
        (3600 * 47, "47h"),
        (3600 * 48, "2d"),
        (3600 * 49, "2d1h"),
        (86400 * 8, "8d"),
        (86400 * 729, "729d"),
        (86400 * 730, "2y"),
        (86400 * 731, "2y1d"),
        (86400 * 365 * 8, "8y"),
    ],
)
def test_durations(seconds, text):
    assert human_duration(seconds) == text
