"""The life of a pod, told as stories: how it starts and goes on, and what the world is told."""

from collections.abc import Callable
from typing import Any

import pytest

from executor.pods.core import events as ev
from executor.pods.core.events import TimerKind
from executor.pods.core.spec import App, Pod, RestartPolicy, read_pod
from executor.pods.core.step import launch

Make = Callable[..., Any]


def conditions(status: Any) -> dict[str, str]:
    return {c["type"]: c["status"] for c in status["conditions"]}


def test_a_quick_pod_says_running_first_with_everything_in_it(world: Make) -> None:
    w = world("web", "side")
    assert w.reports == []
    w.run("web", "side")
    assert [r.state for r in w.reports] == ["TASK_RUNNING"]
    status = w.last.status
    assert status["phase"] == "Running"
    assert conditions(status) == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"), "True"
    )
    assert w.shown("web") == {
        "name": "web",
        "image": "busybox",
        "imageID": "busybox@sha256:1",
        "containerID": "gantry://uid-1/web/0",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": "1970-01-12T13:46:40Z"}},
        "lastState": {},
    }
    assert [e.reason for e in w.last.events] == [
        "Pulled",
        "Pulled",
        "Created",
        "Started",
        "Created",
        "Started",
    ]
    assert status["hostIP"] == "10.0.0.1"
    assert status["startTime"] == "1970-01-12T13:46:40Z"


@pytest.mark.parametrize(("host_network", "told"), [(False, 1), (True, 0)])
def test_a_port_that_is_not_mapped_is_told(host_network: bool, told: int) -> None:
    container = {
        "name": "web",
        "image": "busybox",
        "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}],
    }
    pod = {
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"containers": [container], "hostNetwork": host_network},
    }
    state = launch(read_pod(pod, host_ip="", pod_ip="", qos_class="BestEffort"), 0.0).state
    assert (
        len([e for e in state.unsaid if e.reason == "NotSupported" and "hostPort 8080" in e.message]) == told
    )


@pytest.mark.parametrize(
    ("spec", "names", "told"),
    [
        ({"shareProcessNamespace": False}, "ab", 1),
        ({"shareProcessNamespace": False}, "a", 1),
        ({"shareProcessNamespace": False, "hostPID": True}, "ab", 0),
        ({"shareProcessNamespace": True}, "ab", 0),
        ({}, "ab", 0),
    ],
)
def test_containers_that_would_rather_be_alone_are_told(spec: dict[str, Any], names: str, told: int) -> None:
    containers = [{"name": name, "image": "i"} for name in names]
    pod = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": containers, **spec}}
    remarks = read_pod(pod, host_ip="", pod_ip="", qos_class="BestEffort").remarks
    assert len([one for one in remarks if one.startswith("shareProcessNamespace: false: ")]) == told


def test_the_facts_of_a_pod() -> None:
    spec = {
        "containers": [{"name": "a", "image": "i"}],
        "initContainers": [{"name": "b", "image": "j"}],
        "restartPolicy": "OnFailure",
        "terminationGracePeriodSeconds": 0,
        "activeDeadlineSeconds": 7,
    }
    pod = {"metadata": {"name": "p", "uid": "u", "namespace": "n"}, "spec": spec}
    assert read_pod(pod, host_ip="1", pod_ip="2", qos_class="Burstable") == Pod(
        "u",
        "n",
        "p",
        RestartPolicy.ON_FAILURE,
        (App("b", "j", init=True), App("a", "i")),
        0.0,
        7.0,
        "1",
        "2",
        "Burstable",
    )
    bare = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "a", "image": "i"}]}}
    made = read_pod(bare, host_ip="", pod_ip="", qos_class="BestEffort")
    assert (made.namespace, made.restart_policy, made.grace, made.deadline) == (
        "default",
        "Always",
        30.0,
        None,
    )


def test_a_slow_pod_says_starting(world: Make) -> None:
    w = world("web")
    assert w.wait(TimerKind.SAY_STARTING) == pytest.approx(0.1)
    w.fire(TimerKind.SAY_STARTING)
    assert [r.state for r in w.reports] == ["TASK_STARTING"]
    assert w.last.status["phase"] == "Pending"
    assert w.shown("web")["state"] == {"waiting": {"reason": "ContainerCreating"}}
    w.run("web")
    assert w.last.state == "TASK_RUNNING"


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policy(world: Make, policy: str, code: int, again: bool) -> None:
    w = world("web", policy=policy)
    w.run("web")
    w.exit("web", code)
    assert ("web" in w.preparing) is again
    assert w.stopping_sandbox is not again


def test_a_job_that_completes(world: Make) -> None:
    w = world("job", policy="Never")
    w.run("job")
    w.exit("job", 0, message="done")
    assert len(w.reports) == 1  # the end of the pod follows at once: no message in between
    w.send(ev.SandboxStopped())
    assert [r.state for r in w.reports] == ["TASK_RUNNING", "TASK_FINISHED"]
    assert w.last.terminal
    assert w.last.status["phase"] == "Succeeded"
    ended = w.shown("job")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (0, "Completed", "done")
    ready = next(c for c in w.last.status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PodCompleted")


def test_a_job_that_fails_says_how(world: Make) -> None:
    w = world("job", "side", policy="Never")
    w.run("job", "side")
    w.exit("job", 3)
    assert not w.stopping_sandbox
    assert w.last.state == "TASK_RUNNING"
    assert w.shown("job")["state"]["terminated"]["exitCode"] == 3
    w.exit("side", 0)
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_FAILED"
    assert w.last.status["phase"] == "Failed"
    assert w.last.message == "container job ended with exit code 3 (Error)"


@pytest.mark.parametrize(
    ("exit_code", "signal", "oom", "code", "reason"),
    [
        (0, None, False, 0, "Completed"),
        (7, None, False, 7, "Error"),
        (None, 15, False, 143, "Error"),
        (None, 9, True, 137, "OOMKilled"),
        (137, None, True, 137, "OOMKilled"),
    ],
)
def test_exit_codes_and_reasons(
    world: Make, exit_code: int | None, signal: int | None, oom: bool, code: int, reason: str
) -> None:
    w = world("job", policy="Never")
    w.run("job")
    w.exit("job", exit_code, signal=signal, oom_killed=oom)
    w.send(ev.SandboxStopped())
    ended = w.shown("job")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (code, reason)


def test_crash_loop_back_off(world: Make) -> None:
    w = world("web")
    w.run("web")
    waits = []
    for crash in range(8):
        w.exit("web", 1)
        if crash == 0:
            assert "web" in w.preparing  # the first restart is at once
            state = w.shown("web")
            assert state["state"]["terminated"]["exitCode"] == 1
        else:
            waits.append(w.wait(TimerKind.RETRY, "web"))
            assert w.shown("web")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            assert w.shown("web")["lastState"]["terminated"]["exitCode"] == 1
            assert not w.shown("web")["ready"]
            w.fire(TimerKind.RETRY, "web")
        w.prepared("web")
        w.started("web")
        assert w.shown("web")["restartCount"] == crash + 1
        assert w.shown("web")["containerID"] == f"gantry://uid-1/web/{crash + 1}"
        assert w.shown("web")["lastState"]["terminated"]["containerID"] == f"gantry://uid-1/web/{crash}"
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert "back-off 20s restarting failed container=web pod=web_default(uid-1)" in [
        c["state"]["waiting"]["message"]
        for r in w.reports
        for c in r.status["containerStatuses"]
        if "waiting" in c["state"]
    ]


def test_ten_quiet_minutes_forgive_the_crashes(world: Make) -> None:
    w = world("web")
    w.run("web")
    for _ in range(3):
        w.exit("web", 1)
        if "web" not in w.preparing:
            w.fire(TimerKind.RETRY, "web")
        w.prepared("web")
        w.started("web")
    w.now += 601
    w.exit("web", 1)
    assert "web" in w.preparing
    w.prepared("web")
    w.started("web")
    w.exit("web", 1)
    assert w.wait(TimerKind.RETRY, "web") == 10


def test_an_image_that_is_missing(world: Make) -> None:
    w = world("web")
    w.send(ev.PrepareFailed("web", "ErrImagePull", "busybox: no such image"))
    assert not w.making_sandbox
    assert w.last.state == "TASK_STARTING"
    waiting = w.shown("web")["state"]["waiting"]
    assert waiting == {"reason": "ErrImagePull", "message": "busybox: no such image"}
    w.fire(TimerKind.SHOW_BACKOFF, "web")
    waiting = w.shown("web")["state"]["waiting"]
    assert waiting["reason"] == "ImagePullBackOff"
    assert waiting["message"] == 'Back-off pulling image "busybox": ErrImagePull: busybox: no such image'
    assert w.events("BackOff") == ['Back-off pulling image "busybox"']
    waits = []
    for _ in range(6):
        waits.append(round(w.timers[ev.Timer(TimerKind.RETRY, "web")] - w.now))
        w.fire(TimerKind.RETRY, "web")
        w.send(ev.PrepareFailed("web", "ErrImagePull", "busybox: no such image"))
    assert waits == [9, 20, 40, 80, 160, 300]
    w.fire(TimerKind.RETRY, "web")
    w.run("web")
    assert w.last.state == "TASK_RUNNING"
    assert w.shown("web")["restartCount"] == 0


def test_a_pull_is_told(world: Make) -> None:
    w = world("web")
    w.send(ev.Pulling("web"))
    assert w.reports == []
    w.fire(TimerKind.SAY_STARTING)
    assert w.events("Pulling") == ['Pulling image "busybox"']
    w.send(ev.Prepared("web", "busybox", "busybox@sha256:1", 1.25))
    w.run("web")
    assert w.events("Pulled") == ['Successfully pulled image "busybox" in 1.25s']


@pytest.mark.parametrize("reason", ["ErrImageNeverPull", "CreateContainerConfigError"])
def test_other_reasons_to_wait_stay_what_they_are(world: Make, reason: str) -> None:
    w = world("web")
    w.send(ev.PrepareFailed("web", reason, "because"))
    assert w.shown("web")["state"]["waiting"] == {"reason": reason, "message": "because"}
    assert {t.kind for t in w.timers} == {TimerKind.SAY_STARTING, TimerKind.RETRY}


def test_a_name_that_is_no_image_is_not_tried_again(world: Make) -> None:
    w = world("web")
    w.send(ev.PrepareFailed("web", "InvalidImageName", "could not parse"))
    assert w.shown("web")["state"]["waiting"]["reason"] == "InvalidImageName"
    assert {t.kind for t in w.timers} == {TimerKind.SAY_STARTING}


def test_all_wait_while_the_image_of_one_is_missing(world: Make) -> None:
    w = world("web", "side", init=("setup",))
    assert w.preparing == {"web", "side", "setup"}
    w.send(ev.PrepareFailed("side", "ErrImagePull", "gone"))
    w.prepared("web")
    w.prepared("setup")
    assert not w.making_sandbox
    assert w.last.status["phase"] == "Pending"
    w.fire(TimerKind.RETRY, "side")
    w.prepared("side")
    assert w.making_sandbox


@pytest.mark.parametrize(("policy", "again"), [("Always", True), ("OnFailure", True), ("Never", False)])
def test_a_program_that_does_not_exist(world: Make, policy: str, again: bool) -> None:
    w = world("web", policy=policy)
    w.prepared("web")
    w.send(ev.SandboxStarted())
    w.send(ev.StartFailed("web", 0, "exec /nope: No such file or directory"))
    assert ("web" in w.preparing) is again
    if not again:
        w.send(ev.SandboxStopped())
        assert w.last.state == "TASK_FAILED"
        assert w.last.message == "container web could not start: exec /nope: No such file or directory"
    ended = w.shown("web")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "No such file" in ended["message"]


def test_init_containers_run_one_after_the_other(world: Make) -> None:
    w = world("web", init=("one", "two"))
    w.run("one")
    assert w.reports == []
    assert w.starting == {}
    w.exit("one", 0)
    assert w.starting == {"two": 0}
    w.fire(TimerKind.SAY_STARTING)
    assert w.shown("one")["ready"]
    assert w.shown("web")["state"] == {"waiting": {"reason": "PodInitializing"}}
    assert conditions(w.last.status)["Initialized"] == "False"
    w.started("two")
    w.exit("two", 0)
    w.started("web")
    assert w.last.state == "TASK_RUNNING"
    assert conditions(w.last.status)["Initialized"] == "True"


def test_an_init_container_that_fails_is_tried_again(world: Make) -> None:
    w = world("web", init=("one",), policy="OnFailure")
    w.run("one")
    w.exit("one", 1)
    assert w.preparing == {"one"}
    w.run("one")
    w.exit("one", 1)
    assert w.shown("one")["state"]["waiting"]["reason"] == "CrashLoopBackOff"


def test_an_init_container_that_fails_for_good_fails_the_pod(world: Make) -> None:
    w = world("web", init=("one", "two"), policy="Never")
    w.run("one")
    w.exit("one", 4)
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_FAILED"
    assert w.last.message == "init container one ended with exit code 4 (Error)"
    assert [s.app for s in w.starts] == ["one"]
    assert w.shown("web")["state"] == {"waiting": {"reason": "PodInitializing"}}
