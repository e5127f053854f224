"""How a container goes down, and the pod with it.

    RUNNING ──▶ LEAVING: the preStop hook ──▶ the turn of a sidecar ──▶ STOPPING: stop signal ──▶ SIGKILL

The hook and the turn count against the grace period (the kubelet's kuberuntime_container.go, killContainer, and
kuberuntime_termination_order.go): sidecars end after all other containers, the last one first.
"""

from dataclasses import replace
from typing import Final

from executor.pods.core import backoff, events
from executor.pods.core.effects import RunHook, Stop, StopSandbox
from executor.pods.core.events import Hook, TimerKind
from executor.pods.core.frame import Frame
from executor.pods.core.spec import RestartPolicy
from executor.pods.core.state import Container, Ending, Outcome, State, Termination
from executor.pods.core.states import ALIVE, ContainerState, SandboxState

SIGKILL: Final = 9
LEAST_GRACE: Final = 2.0
"""Seconds from the stop signal to SIGKILL, at least, after a hook or others have used the grace up."""


def stop(frame: Frame, container: Container, grace: float, message: str, *, again: bool = False) -> None:
    """End an instance that runs. again: it is to be started again, if the pod's policy lets anything be."""
    name = container.app.name
    frame.tell("Normal", "Killing", message, name)
    hook = container.app.pre_stop and grace > 0
    if not frame.move(
        container,
        ContainerState.LEAVING,
        grace_until=frame.now + grace,
        hooked=not hook,
        again=again,
    ):
        return
    if hook:
        frame.do(RunHook(name, container.attempt, Hook.PRE_STOP))
    _give(frame, name, grace)


def _give(frame: Frame, app: str, grace: float) -> None:
    if grace > 0:
        frame.timer(TimerKind.GRACE, grace, app)
    else:
        signal(frame, frame.state.container(app))
        _force(frame, frame.state.container(app))


def signal(frame: Frame, container: Container) -> None:
    """The stop signal, to one that is LEAVING."""
    if container.state is ContainerState.LEAVING and frame.move(container, ContainerState.STOPPING):
        frame.do(Stop(container.app.name))


def _force(frame: Frame, container: Container) -> None:
    if container.state is ContainerState.STOPPING and not container.forced:
        frame.change(container, forced=True)
        frame.do(Stop(container.app.name, force=True))


def grace_is_over(frame: Frame, app: str) -> None:
    """Of one app: SIGKILL; if it could not even be told to end, that, and a little more time."""
    container = frame.state.container(app)
    if container.state is ContainerState.LEAVING:
        frame.change(container, grace_until=frame.now + LEAST_GRACE)
        signal(frame, frame.state.container(app))
        frame.timer(TimerKind.GRACE, LEAST_GRACE, app)
    else:
        _force(frame, container)


def signal_whose_turn_it_is(frame: Frame) -> None:
    """Those whose preStop hook has ended and who need not wait for others."""
    for place, container in enumerate(frame.state.containers):
        if container.state is not ContainerState.LEAVING or not container.hooked:
            continue
        # Init containers come first in the list: what is after a sidecar is to end before it.
        waits = container.app.sidecar and frame.state.ending is not None
        if waits and any(c.state in ALIVE for c in frame.state.containers[place + 1 :]):
            continue
        left = container.grace_until - frame.now
        signal(frame, container)
        if left < LEAST_GRACE and (container.app.pre_stop or waits):
            frame.timer(TimerKind.GRACE, LEAST_GRACE, container.app.name)


def pre_stop_ended(frame: Frame, container: Container, error: str) -> None:
    """Late when the grace was over before."""
    if container.state is not ContainerState.LEAVING or container.hooked:
        return
    if error:
        frame.tell("Warning", "FailedPreStopHook", f"PreStopHook failed: {error}", container.app.name)
    frame.change(container, hooked=True)


def exited(frame: Frame, event: events.Exited) -> None:
    container = frame.state.container(event.app)
    running = container.state in ALIVE and container.state is not ContainerState.STARTING
    if not running or event.attempt != container.attempt:
        return frame.late(container)
    code = event.exit_code if event.exit_code is not None else 128 + (event.signal or SIGKILL)
    reason = "OOMKilled" if event.oom_killed else "Completed" if code == 0 else "Error"
    finished = event.finished_at or frame.now
    ended_so = Termination(event.attempt, code, reason, event.message, container.started_at, finished)
    ended(frame, replace(container, last=ended_so, previous=container.last))
    return None


def ended(frame: Frame, container: Container) -> None:
    """An instance ended, `container.last` says how: again, or never again."""
    if frame.state.ending is None and _comes_again(frame.state.pod.restart_policy, container):
        _restart(frame, container)
        return
    frame.move(container, ContainerState.ENDED)
    if frame.state.ending is None and container.app.init and _code(container) != 0:
        end(frame, Ending(Outcome.FAILED, f"init {_how_it_ended(container)}"), frame.state.pod.grace)


def _comes_again(policy: RestartPolicy, container: Container) -> bool:
    if container.app.sidecar:
        return True
    if _code(container) == 0 and not container.again:
        return policy is RestartPolicy.ALWAYS and not container.app.init
    return policy is not RestartPolicy.NEVER


def _restart(frame: Frame, container: Container) -> None:
    """Start it again, at once or after the back-off."""
    quiet = frame.now - container.restarted_at > backoff.RESTART_FORGET
    restarts = 0 if quiet else container.restarts
    delay = backoff.restart_delay(restarts)
    container = replace(container, restarts=restarts + 1)
    if delay == 0.0:
        frame.prepare(replace(container, restarted_at=frame.now))
        return
    pod = frame.state.pod
    name = f"{container.app.name} pod={pod.name}_{pod.namespace}({pod.uid})"
    message = f"back-off {_span(delay)} restarting failed container={name}"
    text = f"Back-off restarting failed container {container.app.name} in pod {pod.name}_{pod.namespace}({pod.uid})"
    frame.tell("Warning", "BackOff", text, container.app.name)
    frame.move(container, ContainerState.BACKOFF, message=message)
    frame.timer(TimerKind.RETRY, delay, container.app.name)


def _span(seconds: float) -> str:
    """Seconds as Go prints a duration: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def started_too_late(frame: Frame, container: Container, ending: Ending) -> None:
    """It came up while the pod was ending: nobody has seen it, so no hook is asked."""
    if frame.move(container, ContainerState.STOPPING, grace_until=ending.grace_until):
        frame.do(Stop(container.app.name))
        _give(frame, container.app.name, ending.grace_until - frame.now)


def end(frame: Frame, ending: Ending, grace: float) -> None:
    """Stop everything. A pod that is ending already keeps its outcome; the shorter grace wins."""
    until = frame.now + grace
    old = frame.state.ending
    if old is not None and until >= old.grace_until:
        return
    frame.state = replace(frame.state, ending=replace(old or ending, grace_until=until))
    for container in frame.state.containers:
        if container.state in {ContainerState.SETTLING, ContainerState.RUNNING}:
            stop(frame, container, grace, f"Stopping container {container.app.name}")
        elif container.state in {ContainerState.LEAVING, ContainerState.STOPPING}:
            if until < container.grace_until:
                frame.change(container, grace_until=until)
                _give(frame, container.app.name, grace)
        elif container.state not in ALIVE and container.state is not ContainerState.ENDED:
            frame.move(container, ContainerState.ENDED)


def settle(frame: Frame) -> None:
    """Once nothing runs and nothing will, stop the sandbox. One that is being made is waited for."""
    if frame.state.ending is None:
        if any(c.state is not ContainerState.ENDED for c in frame.state.mains):
            return
        end(frame, _outcome(frame.state), frame.state.pod.grace)
        signal_whose_turn_it_is(frame)
    if any(c.state is not ContainerState.ENDED for c in frame.state.containers):
        return
    if frame.state.sandbox in {SandboxState.ABSENT, SandboxState.HELD, SandboxState.UP}:
        frame.move_sandbox(SandboxState.STOPPING)
        frame.do(StopSandbox())


def _outcome(state: State) -> Ending:
    failed = [c for c in state.mains if not c.succeeded]
    if not failed:
        return Ending(Outcome.FINISHED, "all containers completed")
    return Ending(Outcome.FAILED, "; ".join(_how_it_ended(c) for c in failed))


def _code(container: Container) -> int:
    return container.last.exit_code if container.last is not None else 0


def _how_it_ended(container: Container) -> str:
    last = container.last
    if last is None:
        return f"container {container.app.name} never ran"
    if last.reason == "StartError":
        return f"container {container.app.name} could not start: {last.message}"
    return f"container {container.app.name} ended with exit code {last.exit_code} ({last.reason})"
