"""The decisions: `launch` begins a pod's life, `step` takes it on by one event.

An event that comes too late (a pull that ends after the kill) changes nothing; one that cannot happen (an exit of
what does not run) changes nothing and is counted in `State.illegal`. How containers come up is in `up`, how they are
watched over in `probing`, how they and the pod end in `down`; whose turn it is follows from the state alone, so it is
looked at after every event.
"""

from dataclasses import dataclass, replace
from typing import Final, assert_never

from executor.pods.core import backoff, down, events, probing, up
from executor.pods.core.effects import Effect, Prepare, StartSandbox
from executor.pods.core.events import Timer, TimerKind
from executor.pods.core.frame import Frame
from executor.pods.core.spec import Pod, ProbeKind, RestartPolicy
from executor.pods.core.state import Container, Ending, Outcome, State, Termination
from executor.pods.core.states import ALIVE, ContainerState, SandboxState

SAY_STARTING_AFTER: Final = 0.1
EVICTION_GRACE: Final = 1.0
"""Seconds; the kubelet's for pods that have taken too much disk."""


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one event: the new state, and the effects to perform, in order."""

    state: State
    effects: tuple[Effect, ...]


def launch(pod: Pod, now: float) -> Step:
    """A pod begins. now: Unix time."""
    frame = Frame(State(pod, now, tuple(Container(app) for app in pod.apps)), now)
    for remark in pod.remarks:
        frame.tell("Warning", "NotSupported", remark)
    for app in pod.apps:  # all images at once; whose turn it is to run comes later
        frame.do(Prepare(app.name))
    frame.timer(TimerKind.SAY_STARTING, SAY_STARTING_AFTER)
    if pod.deadline is not None:
        frame.timer(TimerKind.DEADLINE, pod.deadline)
    frame.report(urgent=False)
    return Step(frame.state, tuple(frame.effects))


def step(state: State, event: events.Event, now: float) -> Step:
    """What follows from an event. now: Unix time, for what is shown; what has to be waited for is a timer."""
    frame = Frame(state, now)
    if state.over:
        return Step(state, ())
    _handle(frame, event)
    _advance(frame)
    if frame.state.sandbox is not SandboxState.GONE:
        say_starting = isinstance(event, events.TimerFired) and event.timer.kind is TimerKind.SAY_STARTING
        frame.report(urgent=say_starting)
    return Step(frame.state, tuple(frame.effects))


def _advance(frame: Frame) -> None:
    """What the state, however it was reached, lets go on."""
    _make_sandbox(frame)
    up.start_whose_turn_it_is(frame)
    down.signal_whose_turn_it_is(frame)
    down.settle(frame)


def _handle(frame: Frame, event: events.Event) -> None:
    match event:
        case (
            events.SandboxStarted()
            | events.SandboxFailed()
            | events.SandboxLost()
            | events.SandboxStopped()
            | events.NotEnforced()
        ):
            _handle_sandbox(frame, event)
        case events.Pulling() | events.Prepared() | events.PrepareFailed():
            up.handle_prepare(frame, event)
        case events.Started():
            up.started(frame, event)
        case events.StartFailed():
            up.start_failed(frame, event)
        case events.HookEnded():
            up.hook_ended(frame, event)
        case events.Probed():
            probing.probed(frame, event)
        case events.Exited():
            down.exited(frame, event)
        case events.KillRequested() | events.Evicted():
            _told_to_end(frame, event)
        case events.TimerFired():
            _timer_fired(frame, event.timer)
        case _:
            assert_never(event)


def _told_to_end(frame: Frame, event: events.KillRequested | events.Evicted) -> None:
    if isinstance(event, events.KillRequested):
        grace = frame.state.pod.grace if event.grace is None else event.grace
        down.end(frame, Ending(Outcome.KILLED, event.message), grace)
    elif frame.state.ending is None:
        frame.tell("Warning", "Evicted", event.message)
        down.end(frame, Ending(Outcome.FAILED, event.message, reason="Evicted"), EVICTION_GRACE)


# --- the sandbox ---------------------------------------------------------------------------------------------------


def _handle_sandbox(frame: Frame, event: events.SandboxEvent) -> None:
    match event:
        case events.SandboxStarted():
            frame.move_sandbox(SandboxState.UP, sandbox_failures=0)
        case events.SandboxFailed():
            _sandbox_failed(frame, event)
        case events.SandboxLost():
            _sandbox_lost(frame, event)
        case events.SandboxStopped():
            if frame.move_sandbox(SandboxState.GONE):
                frame.report_end()
        case events.NotEnforced():
            for remark in event.remarks:
                if remark not in frame.state.unenforced:
                    frame.tell("Warning", "IsolatorNotEnforced", remark)
            frame.state = replace(frame.state, unenforced=event.remarks)
        case _:
            assert_never(event)


def _make_sandbox(frame: Frame) -> None:
    """Once every image is there."""
    if frame.state.sandbox is SandboxState.ABSENT and all(
        c.state is ContainerState.PREPARED for c in frame.state.containers
    ):
        frame.move_sandbox(SandboxState.MAKING)
        frame.do(StartSandbox())


def _sandbox_failed(frame: Frame, event: events.SandboxFailed) -> None:
    failures = frame.state.sandbox_failures + 1
    if not frame.move_sandbox(SandboxState.HELD, sandbox_failures=failures):
        return
    frame.tell("Warning", event.reason, event.message)
    delay = backoff.doubling(backoff.SANDBOX_INITIAL, backoff.SANDBOX_CAP, failures)
    frame.timer(TimerKind.SANDBOX, delay)


def _sandbox_lost(frame: Frame, event: events.SandboxLost) -> None:
    """All processes are dead. The task failed, unless it was ending anyway; the pod only if it must not run again."""
    if frame.state.sandbox is not SandboxState.UP:
        return  # it was being stopped: SandboxStopped follows
    if frame.state.ending is None:
        frame.tell("Warning", "SandboxLost", event.message)
        again = frame.state.pod.restart_policy is not RestartPolicy.NEVER
        ending = Ending(Outcome.FAILED, event.message, reason="SandboxLost", only_here=again)
        frame.state = replace(frame.state, ending=ending)
    for container in frame.state.containers:
        if container.state in ALIVE:
            starting = container.state is ContainerState.STARTING
            attempt = container.attempt + starting
            ended = Termination(
                attempt,
                128 + down.SIGKILL,
                "Error",
                event.message,
                None if starting else container.started_at,
                frame.now,
            )
            frame.move(container, ContainerState.ENDED, attempt=attempt, last=ended, previous=container.last)
        elif container.state is not ContainerState.ENDED:
            frame.move(container, ContainerState.ENDED)


# --- time ----------------------------------------------------------------------------------------------------------


def _timer_fired(frame: Frame, timer: Timer) -> None:
    match timer.kind:
        case TimerKind.SAY_STARTING:
            pass  # the report that `step` sends is all there is to it
        case TimerKind.DEADLINE:
            message = "Pod was active on the node longer than the specified deadline"
            if frame.state.ending is None:
                frame.tell("Normal", "DeadlineExceeded", message)
                ending = Ending(Outcome.FAILED, message, reason="DeadlineExceeded")
                down.end(frame, ending, frame.state.pod.grace)
        case TimerKind.GRACE:
            down.grace_is_over(frame, timer.app)
        case TimerKind.SANDBOX:
            if frame.state.sandbox is SandboxState.HELD:
                frame.move_sandbox(SandboxState.MAKING)
                frame.do(StartSandbox())
        case TimerKind.RETRY:
            container = frame.state.container(timer.app)
            if container.state in {ContainerState.HELD, ContainerState.BACKOFF}:
                frame.prepare(replace(container, restarted_at=frame.now))
        case TimerKind.SHOW_BACKOFF:
            up.show_backoff(frame, frame.state.container(timer.app))
        case TimerKind.STARTUP | TimerKind.LIVENESS | TimerKind.READINESS:
            probing.due(frame, timer.app, ProbeKind(timer.kind.value))
        case _:
            assert_never(timer.kind)
