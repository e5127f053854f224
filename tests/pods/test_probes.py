"""Probes, in the core: when they are asked, and what their answers do."""

from collections.abc import Callable
from typing import Any

import pytest

from executor.pods.core import events as ev
from executor.pods.core.events import TimerKind
from executor.pods.core.spec import Probe, read_pod

Make = Callable[..., Any]


def ready(w: Any) -> str:
    return str(next(c["status"] for c in w.last.status["conditions"] if c["type"] == "Ready"))


def test_the_facts_of_probes() -> None:
    container = {
        "name": "a",
        "image": "i",
        "livenessProbe": {"exec": {}, "terminationGracePeriodSeconds": 0, "failureThreshold": 1},
        "readinessProbe": {"initialDelaySeconds": 3, "periodSeconds": 4, "successThreshold": 5},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    }
    init = {"name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": {}}
    pod = {
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"containers": [container], "initContainers": [init]},
    }
    sidecar, app = read_pod(pod, host_ip="", pod_ip="", qos_class="BestEffort").apps
    assert (app.post_start, app.pre_stop, app.startup) == (False, True, None)
    assert app.liveness == Probe(0.0, 10.0, 1, 1, 0.0)
    assert app.readiness == Probe(3.0, 4.0, 5, 3, None)
    assert (sidecar.sidecar, sidecar.startup) == (True, Probe())


def test_a_container_is_ready_when_its_probe_says_so(world: Make) -> None:
    probe = Probe(initial_delay=5, period=7, success_threshold=2, failure_threshold=2)
    w = world("web", facts={"web": {"readiness": probe}})
    w.run("web")
    assert (w.last.status["phase"], ready(w), w.shown("web")["started"]) == ("Running", "False", True)
    assert w.wait(TimerKind.READINESS, "web") == 5
    w.fire(TimerKind.READINESS, "web")
    assert w.wait(TimerKind.READINESS, "web") == 7
    w.probed("web", "readiness")
    assert ready(w) == "False"  # two in a row
    w.fire(TimerKind.READINESS, "web")
    w.probed("web", "readiness")
    assert ready(w) == "True"
    w.fire(TimerKind.READINESS, "web")
    w.probed("web", "readiness", "failure", "HTTP probe failed with statuscode: 500")
    assert ready(w) == "True"
    w.fire(TimerKind.READINESS, "web")
    w.probed("web", "readiness", "failure", "HTTP probe failed with statuscode: 500")
    assert ready(w) == "False"
    assert w.events("Unhealthy") == ["Readiness probe failed: HTTP probe failed with statuscode: 500"] * 2
    assert w.stops == []


def test_a_container_that_does_not_live_is_started_again(world: Make) -> None:
    probe = Probe(failure_threshold=2, grace=3.0)
    w = world("web", policy="OnFailure", facts={"web": {"liveness": probe}}, grace=30.0)
    w.run("web")
    assert ready(w) == "True"
    w.probed("web", "liveness", "failure", "no")
    w.fire(TimerKind.LIVENESS, "web")
    w.probed("web", "liveness", "failure", "no")
    assert w.stopped("web") == [False]
    assert w.wait(TimerKind.GRACE, "web") == 3.0  # the probe's own
    assert w.events("Killing") == ["Container web failed liveness probe, will be restarted"]
    w.exit("web", 0)  # that it ends well does not matter
    w.prepared("web")
    w.started("web")
    assert w.shown("web")["restartCount"] == 1
    assert w.asked("web", "liveness")  # at once: the new instance has its own checks
    w.probed("web", "liveness", "failure", "no")
    assert w.stopped("web") == [False]  # and counts from the beginning


def test_with_policy_never_it_is_not(world: Make) -> None:
    w = world("web", policy="Never", facts={"web": {"liveness": Probe(failure_threshold=1)}})
    w.run("web")
    w.probed("web", "liveness", "failure", "no")
    w.exit("web", None, signal=15)
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_FAILED"
    assert w.events("Killing") == ["Container web failed liveness probe"]


def test_a_liveness_kill_runs_the_pre_stop_hook(world: Make) -> None:
    facts = {"web": {"liveness": Probe(failure_threshold=1), "pre_stop": True}}
    w = world("web", facts=facts)
    w.run("web")
    w.probed("web", "liveness", "failure", "no")
    assert [hook.hook for hook in w.hooks] == ["preStop"]


def test_a_startup_probe_holds_the_others_back(world: Make) -> None:
    facts = {"web": {"startup": Probe(failure_threshold=3), "liveness": Probe(), "readiness": Probe()}}
    w = world("web", facts=facts)
    w.run("web")
    assert [check.probe for check in w.checks] == ["startup"]
    assert (w.shown("web")["started"], ready(w)) == (False, "False")
    w.probed("web", "startup", "failure", "no")
    w.fire(TimerKind.STARTUP, "web")
    w.probed("web", "startup")
    assert w.shown("web")["started"]
    assert sorted(check.probe for check in w.checks) == ["liveness", "readiness"]
    w.probed("web", "readiness")
    assert ready(w) == "True"
    w.fire(TimerKind.STARTUP, "web")
    assert not w.asked("web", "startup")  # it has done its work


def test_what_does_not_start_is_started_again(world: Make) -> None:
    w = world("web", facts={"web": {"startup": Probe(failure_threshold=1)}})
    w.run("web")
    w.probed("web", "startup", "failure", "no")
    assert w.events("Killing") == ["Container web failed startup probe, will be restarted"]
    assert w.stopped("web") == [False]


def test_what_cannot_be_asked_counts_for_nothing(world: Make) -> None:
    w = world("web", facts={"web": {"liveness": Probe(failure_threshold=1)}})
    w.run("web")
    w.probed("web", "liveness", "unknown", "no such file")
    assert w.stops == []
    assert w.events("Unhealthy") == ["Liveness probe errored and resulted in unknown state: no such file"]


def test_a_slow_check_is_never_made_twice_at_a_time(world: Make) -> None:
    w = world("web", facts={"web": {"liveness": Probe(period=1)}})
    w.run("web")
    w.fire(TimerKind.LIVENESS, "web")
    assert len(w.checks) == 1
    w.probed("web", "liveness")
    assert len(w.checks) == 1  # the one that was due


def test_probes_begin_after_the_post_start_hook(world: Make) -> None:
    w = world("web", facts={"web": {"post_start": True, "readiness": Probe(initial_delay=5)}})
    w.run("web")
    assert TimerKind.READINESS not in {timer.kind for timer in w.timers}
    w.now += 2
    w.hooked("web", "postStart")
    assert w.wait(TimerKind.READINESS, "web") == 3  # from the start of the container


@pytest.mark.parametrize("late", ["killed", "exited"])
def test_a_late_answer_changes_nothing(world: Make, late: str) -> None:
    w = world("web", facts={"web": {"liveness": Probe(failure_threshold=1)}})
    w.run("web")
    if late == "killed":
        w.send(ev.KillRequested(5.0))
    else:
        w.exit("web", 1)
    before = w.state
    w.probed("web", "liveness", "failure", "no")
    assert w.state == before


def test_failures_that_go_on_are_not_told_forever(world: Make) -> None:
    w = world("web", facts={"web": {"readiness": Probe(failure_threshold=3)}})
    w.run("web")
    for _ in range(40):
        w.probed("web", "readiness", "failure", "no")
        w.fire(TimerKind.READINESS, "web")
    assert len(w.events("Unhealthy")) == 3 + 4  # 4, 8, 16, 32
