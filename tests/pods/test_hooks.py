"""Lifecycle hooks and the end of containers, in the core: what runs when, and what counts against the grace."""

from collections.abc import Callable
from typing import Any

from executor.pods.core import events as ev
from executor.pods.core.events import TimerKind
from executor.pods.core.spec import Probe

Make = Callable[..., Any]


def test_a_container_is_not_shown_as_running_before_its_post_start_hook_has_ended(world: Make) -> None:
    w = world("web", "late", facts={"web": {"post_start": True}})
    w.run("web")
    w.fire(TimerKind.SAY_STARTING)
    assert w.last.state == "TASK_STARTING"
    assert w.last.status["phase"] == "Pending"
    assert w.shown("web")["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert "late" not in w.starting  # it waits for the hook, as in the kubelet
    w.hooked("web", "postStart")
    w.started("late")
    assert w.last.state == "TASK_RUNNING"
    assert w.shown("web")["ready"]


def test_a_failing_post_start_hook_ends_the_container(world: Make) -> None:
    w = world("web", facts={"web": {"post_start": True, "pre_stop": True}}, grace=30.0)
    w.run("web")
    w.hooked("web", "postStart", "command exited with 3")
    assert w.stopped("web") == []  # its preStop hook comes first
    w.hooked("web", "preStop")
    assert w.stopped("web") == [False]
    w.exit("web", 143)
    assert w.events("FailedPostStartHook") == ["PostStartHook failed: command exited with 3"]
    assert w.events("Killing") == ["FailedPostStartHook"]
    assert "web" in w.preparing
    w.prepared("web")
    assert w.starting == {"web": 1}


def test_pre_stop_counts_against_the_grace(world: Make) -> None:
    w = world("web", facts={"web": {"pre_stop": True}}, grace=30.0)
    w.run("web")
    w.send(ev.KillRequested())
    assert w.wait(TimerKind.GRACE, "web") == 30.0
    assert w.stopped("web") == []
    w.now += 10
    w.hooked("web", "preStop")
    assert w.stopped("web") == [False]
    assert w.wait(TimerKind.GRACE, "web") == 20.0
    w.fire(TimerKind.GRACE, "web")
    assert w.stopped("web") == [False, True]


def test_a_pre_stop_hook_that_lasts_too_long(world: Make) -> None:
    w = world("web", facts={"web": {"pre_stop": True}}, grace=30.0)
    w.run("web")
    w.send(ev.KillRequested())
    w.fire(TimerKind.GRACE, "web")
    assert w.stopped("web") == [False]
    assert w.wait(TimerKind.GRACE, "web") == 2.0  # the kubelet's minimumGracePeriodInSeconds
    w.hooked("web", "preStop", "too late to matter")
    w.fire(TimerKind.GRACE, "web")
    assert w.stopped("web") == [False, True]
    assert w.events("FailedPreStopHook") == []
    assert w.state.illegal == 0


def test_a_failing_pre_stop_hook_is_told_and_the_end_goes_on(world: Make) -> None:
    w = world("web", facts={"web": {"pre_stop": True}}, grace=30.0)
    w.run("web")
    w.send(ev.KillRequested())
    w.now += 29.5
    w.hooked("web", "preStop", "HTTP status 500")
    assert w.stopped("web") == [False]
    assert w.wait(TimerKind.GRACE, "web") == 2.0
    w.exit("web")
    w.send(ev.SandboxStopped())
    assert w.events("FailedPreStopHook") == ["PreStopHook failed: HTTP status 500"]


def test_no_grace_no_pre_stop(world: Make) -> None:
    w = world("web", facts={"web": {"pre_stop": True}})
    w.run("web")
    w.send(ev.KillRequested(0.0))
    assert w.hooks == []
    assert w.stopped("web") == [False, True]


def test_a_second_kill_hurries_a_pre_stop_hook(world: Make) -> None:
    w = world("web", facts={"web": {"pre_stop": True}}, grace=30.0)
    w.run("web")
    w.send(ev.KillRequested())
    w.send(ev.KillRequested(0.0))
    assert w.stopped("web") == [False, True]


def test_a_container_that_ends_by_itself_runs_no_pre_stop_hook(world: Make) -> None:
    w = world("web", facts={"web": {"pre_stop": True}}, policy="Never")
    w.run("web")
    w.exit("web", 0)
    assert w.hooks == []


# --- sidecars --------------------------------------------------------------------------------------------------------

PROXY = {"proxy": {"sidecar": True, "startup": Probe(failure_threshold=2)}}


def test_what_comes_after_a_sidecar_waits_until_it_has_started(world: Make) -> None:
    w = world("web", init=("proxy", "setup"), facts=PROXY)
    w.run("proxy")
    assert not w.starting
    w.probed("proxy", "startup")
    assert set(w.starting) == {"setup"}
    w.started("setup")
    w.fire(TimerKind.SAY_STARTING)
    assert w.last.status["phase"] == "Pending"
    assert w.shown("proxy")["started"]
    w.exit("setup")
    w.started("web")
    assert w.last.status["phase"] == "Running"
    assert w.shown("proxy")["ready"]


def test_a_sidecar_that_crashes_is_started_again_whatever_the_policy(world: Make) -> None:
    w = world("web", init=("proxy",), policy="Never", facts={"proxy": {"sidecar": True}})
    w.run("proxy", "web")
    w.exit("proxy", 0)
    w.prepared("proxy")
    assert w.starting == {"proxy": 1}
    assert w.last.status["phase"] == "Running"
    assert [c["status"] for c in w.last.status["conditions"] if c["type"] == "Ready"] == ["False"]
    w.started("proxy")
    assert [c["status"] for c in w.last.status["conditions"] if c["type"] == "Ready"] == ["True"]


def test_a_sidecar_does_not_keep_a_job_from_its_end(world: Make) -> None:
    w = world("job", init=("first", "second"), policy="Never", grace=30.0, facts={
        "first": {"sidecar": True, "pre_stop": True}, "second": {"sidecar": True}})  # fmt: skip
    w.run("first")
    w.started("second")
    w.started("job")
    w.exit("job")
    assert w.stopped("second") == [False]  # the last one first
    assert [hook.app for hook in w.hooks] == ["first"]  # hooks wait for nobody
    w.hooked("first", "preStop")
    assert w.stopped("first") == []
    w.exit("second", 1)
    assert w.stopped("first") == [False]
    w.exit("first", None, signal=15)
    w.send(ev.SandboxStopped())
    assert (w.last.state, w.last.status["phase"]) == ("TASK_FINISHED", "Succeeded")


def test_sidecars_end_after_the_others_or_when_the_grace_is_over(world: Make) -> None:
    w = world("web", init=("proxy",), facts={"proxy": {"sidecar": True}}, grace=10.0)
    w.run("proxy", "web")
    w.send(ev.KillRequested())
    assert (w.stopped("web"), w.stopped("proxy")) == ([False], [])
    w.fire(TimerKind.GRACE, "proxy")
    assert w.stopped("proxy") == [False]
    assert w.wait(TimerKind.GRACE, "proxy") == 2.0


def test_an_init_container_that_fails_takes_the_sidecars_along(world: Make) -> None:
    w = world("web", init=("proxy", "setup"), policy="Never", facts={"proxy": {"sidecar": True}})
    w.run("proxy")
    w.started("setup")
    w.exit("setup", 2)
    assert w.stopped("proxy") == [False]
    w.exit("proxy")
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_FAILED"
    assert "setup" in w.last.message
