"""The end of a pod, told as stories: kills, deadlines, sandboxes that are lost or cannot be made, and what is told."""

from collections.abc import Callable
from typing import Any

import pytest

from executor.pods.core import events as ev
from executor.pods.core.effects import StopSandbox
from executor.pods.core.events import TimerKind

Make = Callable[..., Any]


def test_a_kill_is_graceful_then_not(world: Make) -> None:
    w = world("web", "side", grace=30.0)
    w.run("web", "side")
    w.send(ev.KillRequested(5.0))
    assert [(s.app, s.force) for s in w.stops] == [("web", False), ("side", False)]
    assert w.wait(TimerKind.GRACE, "web") == 5.0
    assert w.events("Killing") == ["Stopping container web", "Stopping container side"]
    w.exit("web", None, signal=15)
    w.fire(TimerKind.GRACE, "side")
    assert [(s.app, s.force) for s in w.stops[2:]] == [("side", True)]
    w.exit("side", None, signal=9)
    assert w.stopping_sandbox
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_KILLED"
    assert w.shown("web")["state"]["terminated"]["exitCode"] == 143
    assert w.shown("side")["state"]["terminated"]["exitCode"] == 137


def test_a_kill_without_grace_kills(world: Make) -> None:
    w = world("web")
    w.run("web")
    w.send(ev.KillRequested(0.0))
    assert [(s.app, s.force) for s in w.stops] == [("web", False), ("web", True)]


def test_a_kill_without_a_say_takes_the_pods_own_grace(world: Make) -> None:
    w = world("web", grace=7.0)
    w.run("web")
    w.send(ev.KillRequested())
    assert w.wait(TimerKind.GRACE, "web") == 7.0


def test_a_second_kill_can_only_hurry(world: Make) -> None:
    w = world("web")
    w.run("web")
    w.send(ev.KillRequested(10.0))
    w.send(ev.KillRequested(60.0))
    assert w.wait(TimerKind.GRACE, "web") == 10.0
    w.send(ev.KillRequested(2.0))
    assert w.wait(TimerKind.GRACE, "web") == 2.0
    w.send(ev.KillRequested(0.0))
    assert w.stops[-1].force


def test_a_kill_while_the_launcher_works_stops_what_it_started(world: Make) -> None:
    w = world("web")
    w.prepared("web")
    w.send(ev.SandboxStarted())
    w.send(ev.KillRequested(5.0))
    assert w.stops == []
    w.started("web")
    assert [(s.app, s.force) for s in w.stops] == [("web", False)]
    w.exit("web", 0)
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_KILLED"


def test_a_kill_before_anything_runs(world: Make) -> None:
    w = world("web", init=("one",))
    w.send(ev.KillRequested(5.0))
    assert w.stopping_sandbox
    w.prepared("one")  # too late
    w.send(ev.SandboxStopped())
    assert [r.state for r in w.reports][-1] == "TASK_KILLED"
    assert w.starts == []
    assert w.state.illegal == 0


def test_a_kill_while_the_sandbox_is_made_waits_for_it(world: Make) -> None:
    w = world("web")
    w.prepared("web")
    w.send(ev.KillRequested(5.0))
    assert not w.stopping_sandbox
    w.send(ev.SandboxStarted())
    assert w.stopping_sandbox
    assert w.starts == []


def test_a_kill_in_crash_loop_back_off(world: Make) -> None:
    w = world("web")
    w.run("web")
    w.exit("web", 1)
    w.run("web")
    w.exit("web", 1)
    w.send(ev.KillRequested(5.0))
    assert w.stopping_sandbox
    w.fire(TimerKind.RETRY, "web")
    assert w.preparing == set()


def test_the_deadline_fails_the_pod(world: Make) -> None:
    w = world("web", deadline=60.0, grace=5.0)
    assert w.wait(TimerKind.DEADLINE) == 60.0
    w.run("web")
    w.fire(TimerKind.DEADLINE)
    assert [s.app for s in w.stops] == ["web"]
    w.exit("web", None, signal=15)
    assert w.preparing == set()
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_FAILED"
    assert w.last.status["phase"] == "Failed"
    assert w.last.status["reason"] == "DeadlineExceeded"
    assert w.last.status["message"] == "Pod was active on the node longer than the specified deadline"


def test_a_sandbox_that_cannot_be_made_is_tried_again(world: Make) -> None:
    w = world("web")
    w.prepared("web")
    w.send(ev.SandboxFailed("FailedMount", 'volume "data": /nope is not a directory'))
    assert w.last.state == "TASK_STARTING"
    assert w.events("FailedMount") == ['volume "data": /nope is not a directory']
    waits = []
    for _ in range(9):
        waits.append(w.wait(TimerKind.SANDBOX))
        w.fire(TimerKind.SANDBOX)
        assert w.making_sandbox
        w.send(ev.SandboxFailed("FailedMount", "still not"))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    w.fire(TimerKind.SANDBOX)
    w.send(ev.SandboxStarted())
    w.started("web")
    assert w.last.state == "TASK_RUNNING"


@pytest.mark.parametrize(
    ("policy", "phase"), [("Always", "Pending"), ("OnFailure", "Pending"), ("Never", "Failed")]
)
def test_a_lost_sandbox_fails_the_task_and_the_pod_by_its_policy(
    world: Make, policy: str, phase: str
) -> None:
    w = world("web", policy=policy)
    w.run("web")
    w.send(ev.SandboxLost("the launcher died"))
    w.send(ev.Exited("web", 0, None, signal=9))  # comes too late to count
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_FAILED"
    assert w.last.message == "the launcher died"
    assert (w.last.status["phase"], w.last.status["reason"]) == (phase, "SandboxLost")
    assert w.shown("web")["state"]["terminated"]["exitCode"] == 137
    assert w.state.illegal == 0


def test_a_sandbox_lost_during_a_kill_is_a_kill(world: Make) -> None:
    w = world("web")
    w.run("web")
    w.send(ev.KillRequested(5.0))
    w.send(ev.SandboxLost("gone"))
    w.send(ev.SandboxStopped())
    assert w.last.state == "TASK_KILLED"


def test_what_cannot_be_changes_nothing_and_is_counted(world: Make) -> None:
    w = world("web")
    w.prepared("web")
    before = w.state
    w.send(ev.Exited("web", 0, 0))
    w.send(ev.Started("web", 0))
    assert w.state.illegal == 2
    assert w.state.containers == before.containers
    assert w.reports == []


def test_after_the_end_nothing_happens(world: Make) -> None:
    w = world("job", policy="Never")
    w.run("job")
    w.exit("job", 0)
    w.send(ev.SandboxStopped())
    for event in (ev.KillRequested(0.0), ev.SandboxStarted(), ev.SandboxStopped(), ev.SandboxLost("x")):
        assert w.send(event) == ()


def test_the_pod_ends_through_its_sandbox(world: Make) -> None:
    w = world("job", policy="Never")
    w.run("job")
    effects = w.send(ev.Exited("job", 0, 0))
    assert effects == (StopSandbox(),)


def test_transition_times_stay_while_a_condition_stays(world: Make) -> None:
    w = world("web")
    w.run("web")
    w.now += 100
    w.exit("web", 1)
    w.now += 100
    w.prepared("web")
    w.started("web")
    times = {c["type"]: c["lastTransitionTime"] for c in w.last.status["conditions"]}
    assert times["Initialized"] == "1970-01-12T13:46:40Z"
    assert times["Ready"] == "1970-01-12T13:50:00Z"
