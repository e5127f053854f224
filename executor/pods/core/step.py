"""The decisions: `launch` begins a pod's life, `step` takes it on by one event.

An event that comes too late (a pull that ends after the kill) changes nothing; one that cannot happen (an exit of
what does not run) changes nothing and is counted in `State.illegal`.
"""

from dataclasses import dataclass, replace
from typing import Final, assert_never

from executor.pods.core import backoff, events
from executor.pods.core.effects import Effect, Prepare, Start, StartSandbox, Stop, StopSandbox
from executor.pods.core.events import Timer, TimerKind
from executor.pods.core.frame import Frame
from executor.pods.core.spec import Pod, RestartPolicy
from executor.pods.core.state import Container, Ending, Outcome, State, Termination
from executor.pods.core.states import ALIVE, ContainerState, SandboxState

SAY_STARTING_AFTER: Final = 0.1
START_ERROR_CODE: Final = 128
SIGKILL: Final = 9
PULL_ERRORS: Final = frozenset({"ErrImagePull", "RegistryUnavailable", "SignatureValidationFailed"})
"""Waiting reasons that turn into ImagePullBackOff until the next try."""
FOREVER_HELD: Final = frozenset({"InvalidImageName"})
"""Waiting reasons that no further try can cure: the pod object itself is wrong."""


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
    if frame.state.sandbox is not SandboxState.GONE:
        say_starting = isinstance(event, events.TimerFired) and event.timer.kind is TimerKind.SAY_STARTING
        frame.report(urgent=say_starting)
    return Step(frame.state, tuple(frame.effects))


def _handle(frame: Frame, event: events.Event) -> None:
    match event:
        case (
            events.SandboxStarted() | events.SandboxFailed() | events.SandboxLost() | events.SandboxStopped()
        ):
            _handle_sandbox(frame, event)
        case events.Pulling() | events.Prepared() | events.PrepareFailed():
            _handle_prepare(frame, event)
        case events.Started():
            _started(frame, event)
        case events.StartFailed():
            _start_failed(frame, event)
        case events.Exited():
            _exited(frame, event)
        case events.KillRequested():
            grace = frame.state.pod.grace if event.grace is None else event.grace
            _end(frame, Ending(Outcome.KILLED, event.message), grace)
        case events.TimerFired():
            _timer_fired(frame, event.timer)
        case _:
            assert_never(event)


# --- the sandbox ---------------------------------------------------------------------------------------------------


def _handle_sandbox(frame: Frame, event: events.SandboxEvent) -> None:
    match event:
        case events.SandboxStarted():
            _sandbox_started(frame)
        case events.SandboxFailed():
            _sandbox_failed(frame, event)
        case events.SandboxLost():
            _sandbox_lost(frame, event)
        case events.SandboxStopped():
            if frame.move_sandbox(SandboxState.GONE):
                frame.report_end()
        case _:
            assert_never(event)


def _make_sandbox(frame: Frame) -> None:
    """Once every image is there."""
    if frame.state.sandbox is SandboxState.ABSENT and all(
        c.state is ContainerState.PREPARED for c in frame.state.containers
    ):
        frame.move_sandbox(SandboxState.MAKING)
        frame.do(StartSandbox())


def _sandbox_started(frame: Frame) -> None:
    if frame.move_sandbox(SandboxState.UP, sandbox_failures=0):
        _start_whose_turn_it_is(frame)
        _settle(frame)


def _sandbox_failed(frame: Frame, event: events.SandboxFailed) -> None:
    failures = frame.state.sandbox_failures + 1
    if not frame.move_sandbox(SandboxState.HELD, sandbox_failures=failures):
        return
    frame.tell("Warning", event.reason, event.message)
    delay = backoff.doubling(backoff.SANDBOX_INITIAL, backoff.SANDBOX_CAP, failures)
    frame.timer(TimerKind.SANDBOX, delay)
    _settle(frame)


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
            attempt = container.attempt + (container.state is ContainerState.STARTING)
            ended = _termination(container, attempt, 128 + SIGKILL, "Error", event.message, frame.now)
            frame.move(container, ContainerState.ENDED, attempt=attempt, last=ended, previous=container.last)
        elif container.state is not ContainerState.ENDED:
            frame.move(container, ContainerState.ENDED)
    _settle(frame)


# --- a container comes up ------------------------------------------------------------------------------------------


def _start_whose_turn_it_is(frame: Frame) -> None:
    """Init containers one after the other, then all others together."""
    if frame.state.ending is not None or frame.state.sandbox is not SandboxState.UP:
        return
    for container in frame.state.inits:
        if container.state is ContainerState.PREPARED:
            _start(frame, container)
        if not container.succeeded:
            return
    for container in frame.state.mains:
        if container.state is ContainerState.PREPARED:
            _start(frame, container)


def _prepare(frame: Frame, container: Container) -> None:
    if frame.move(container, ContainerState.PREPARING):
        frame.do(Prepare(container.app.name))


def _handle_prepare(frame: Frame, event: events.Pulling | events.Prepared | events.PrepareFailed) -> None:
    container = frame.state.container(event.app)
    if container.state is not ContainerState.PREPARING:
        return _late_or_illegal(frame, container)
    match event:
        case events.Pulling():
            frame.tell("Normal", "Pulling", f'Pulling image "{container.app.image}"', event.app)
        case events.Prepared():
            _prepared(frame, container, event)
        case events.PrepareFailed():
            _prepare_failed(frame, container, event)
        case _:
            assert_never(event)
    return None


def _prepared(frame: Frame, container: Container, event: events.Prepared) -> None:
    image = container.app.image
    if event.took is None:
        frame.tell("Normal", "Pulled", f'Container image "{image}" already present on machine', event.app)
    else:
        took = f"{event.took:.3f}".rstrip("0").rstrip(".")
        frame.tell("Normal", "Pulled", f'Successfully pulled image "{image}" in {took}s', event.app)
    frame.move(
        container,
        ContainerState.PREPARED,
        image=event.image,
        image_id=event.image_id,
        failures=0,
        reason="",
        message="",
    )
    _make_sandbox(frame)
    _start_whose_turn_it_is(frame)


def _prepare_failed(frame: Frame, container: Container, event: events.PrepareFailed) -> None:
    failures = container.failures + 1
    frame.tell("Warning", "Failed", event.message, event.app)
    frame.tell("Warning", "Failed", f"Error: {event.reason}", event.app)
    frame.move(container, ContainerState.HELD, reason=event.reason, message=event.message, failures=failures)
    if event.reason in FOREVER_HELD:
        return
    if event.reason in PULL_ERRORS:
        frame.timer(TimerKind.SHOW_BACKOFF, backoff.PULL_SHOW_AFTER, event.app)
    delay = backoff.doubling(backoff.PULL_INITIAL, backoff.PULL_CAP, failures)
    frame.timer(TimerKind.RETRY, delay, event.app)


def _start(frame: Frame, container: Container) -> None:
    if frame.move(container, ContainerState.STARTING):
        frame.do(Start(container.app.name, container.attempt + 1))


def _started(frame: Frame, event: events.Started) -> None:
    container = frame.state.container(event.app)
    if container.state is not ContainerState.STARTING or event.attempt != container.attempt + 1:
        return _late_or_illegal(frame, container)
    frame.tell("Normal", "Created", f"Created container: {event.app}", event.app)
    frame.tell("Normal", "Started", f"Started container {event.app}", event.app)
    ending = frame.state.ending
    to = ContainerState.RUNNING if ending is None else ContainerState.STOPPING
    frame.move(container, to, attempt=event.attempt, started_at=frame.now)
    if ending is not None:
        frame.do(Stop(event.app, force=ending.grace_over))
    return None


def _start_failed(frame: Frame, event: events.StartFailed) -> None:
    container = frame.state.container(event.app)
    if container.state is not ContainerState.STARTING or event.attempt != container.attempt + 1:
        return _late_or_illegal(frame, container)
    frame.tell("Warning", "Failed", f"Error: {event.message}", event.app)
    ended = Termination(event.attempt, START_ERROR_CODE, "StartError", event.message, None, frame.now)
    _ended(frame, replace(container, attempt=event.attempt, last=ended, previous=container.last))
    return None


def _late_or_illegal(frame: Frame, container: Container) -> None:
    """An answer for a container that was given up meanwhile is late; for any other it is a bug, and counted."""
    if container.state is not ContainerState.ENDED:
        frame.illegal()


# --- a container goes down -----------------------------------------------------------------------------------------


def _termination(
    container: Container, attempt: int, code: int, reason: str, message: str, finished_at: float
) -> Termination:
    return Termination(attempt, code, reason, message, container.started_at, finished_at)


def _exited(frame: Frame, event: events.Exited) -> None:
    container = frame.state.container(event.app)
    running = container.state in {ContainerState.RUNNING, ContainerState.STOPPING}
    if not running or event.attempt != container.attempt:
        return _late_or_illegal(frame, container)
    code = event.exit_code if event.exit_code is not None else 128 + (event.signal or SIGKILL)
    reason = "OOMKilled" if event.oom_killed else "Completed" if code == 0 else "Error"
    ended = _termination(
        container, event.attempt, code, reason, event.message, event.finished_at or frame.now
    )
    _ended(frame, replace(container, last=ended, previous=container.last))
    return None


def _ended(frame: Frame, container: Container) -> None:
    """An instance ended, `container.last` says how: again, or never again."""
    if frame.state.ending is None and _comes_again(frame.state.pod.restart_policy, container):
        _restart(frame, container)
        return
    frame.move(container, ContainerState.ENDED)
    if frame.state.ending is None and container.app.init:
        if _code(container) == 0:
            _start_whose_turn_it_is(frame)
        else:
            _end(frame, Ending(Outcome.FAILED, f"init {_how_it_ended(container)}"), frame.state.pod.grace)
        return
    _settle(frame)


def _comes_again(policy: RestartPolicy, container: Container) -> bool:
    if _code(container) == 0:
        return policy is RestartPolicy.ALWAYS and not container.app.init
    return policy is not RestartPolicy.NEVER


def _restart(frame: Frame, container: Container) -> None:
    """Start it again, at once or after the back-off."""
    quiet = frame.now - container.restarted_at > backoff.RESTART_FORGET
    restarts = 0 if quiet else container.restarts
    delay = backoff.restart_delay(restarts)
    container = replace(container, restarts=restarts + 1)
    if delay == 0.0:
        _prepare(frame, replace(container, restarted_at=frame.now))
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


# --- the pod ends --------------------------------------------------------------------------------------------------


def _end(frame: Frame, ending: Ending, grace: float) -> None:
    """Stop everything. A pod that is ending already keeps its outcome; the shorter grace wins."""
    until = frame.now + grace
    old = frame.state.ending
    if old is not None:
        if until < old.grace_until and not old.grace_over:
            frame.state = replace(frame.state, ending=replace(old, grace_until=until))
            _give_grace(frame, grace)
        return
    frame.state = replace(frame.state, ending=replace(ending, grace_until=until))
    for container in frame.state.containers:
        if container.state is ContainerState.RUNNING:
            frame.tell("Normal", "Killing", f"Stopping container {container.app.name}", container.app.name)
            frame.move(container, ContainerState.STOPPING)
            frame.do(Stop(container.app.name))
        elif container.state not in ALIVE and container.state is not ContainerState.ENDED:
            frame.move(container, ContainerState.ENDED)
    _give_grace(frame, grace)
    _settle(frame)


def _give_grace(frame: Frame, grace: float) -> None:
    if not any(c.state in ALIVE for c in frame.state.containers):
        return
    if grace <= 0:
        _grace_is_over(frame)
    else:
        frame.timer(TimerKind.GRACE, grace)


def _grace_is_over(frame: Frame) -> None:
    ending = frame.state.ending
    if ending is None or ending.grace_over:
        return
    frame.state = replace(frame.state, ending=replace(ending, grace_over=True))
    for container in frame.state.containers:
        if container.state is ContainerState.STOPPING:
            frame.do(Stop(container.app.name, force=True))


def _settle(frame: Frame) -> None:
    """Once nothing runs and nothing will, stop the sandbox. One that is being made is waited for."""
    state = frame.state
    waited_for = state.containers if state.ending is not None else state.mains
    if any(c.state is not ContainerState.ENDED for c in waited_for):
        return
    if state.ending is None:
        frame.state = replace(state, ending=_outcome(state))
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


# --- time ----------------------------------------------------------------------------------------------------------


def _timer_fired(frame: Frame, timer: Timer) -> None:
    match timer.kind:
        case TimerKind.SAY_STARTING:
            pass  # the report that `step` sends is all there is to it
        case TimerKind.DEADLINE:
            message = "Pod was active on the node longer than the specified deadline"
            if frame.state.ending is None:
                frame.tell("Normal", "DeadlineExceeded", message)
                _end(frame, Ending(Outcome.FAILED, message, reason="DeadlineExceeded"), frame.state.pod.grace)
        case TimerKind.GRACE:
            _grace_is_over(frame)
        case TimerKind.SANDBOX:
            if frame.state.sandbox is SandboxState.HELD:
                frame.move_sandbox(SandboxState.MAKING)
                frame.do(StartSandbox())
        case TimerKind.RETRY:
            container = frame.state.container(timer.app)
            if container.state in {ContainerState.HELD, ContainerState.BACKOFF}:
                _prepare(frame, replace(container, restarted_at=frame.now))
        case TimerKind.SHOW_BACKOFF:
            _show_backoff(frame, frame.state.container(timer.app))
        case _:
            assert_never(timer.kind)


def _show_backoff(frame: Frame, container: Container) -> None:
    if container.state is not ContainerState.HELD or container.reason not in PULL_ERRORS:
        return
    image = container.app.image
    frame.tell("Normal", "BackOff", f'Back-off pulling image "{image}"', container.app.name)
    frame.tell("Warning", "Failed", "Error: ImagePullBackOff", container.app.name)
    message = f'Back-off pulling image "{image}": {container.reason}: {container.message}'
    changed = replace(container, reason="ImagePullBackOff", message=message)
    frame.state = frame.state.with_container(changed)
