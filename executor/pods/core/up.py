"""How a container comes up: image, turn, start, postStart hook."""

from dataclasses import replace
from typing import Final, assert_never

from executor.pods.core import backoff, down, events, probing
from executor.pods.core.effects import RunHook, Start
from executor.pods.core.events import Hook, TimerKind
from executor.pods.core.frame import Frame
from executor.pods.core.state import Container, Termination
from executor.pods.core.states import ContainerState, SandboxState

START_ERROR_CODE: Final = 128
PULL_ERRORS: Final = frozenset({"ErrImagePull", "RegistryUnavailable", "SignatureValidationFailed"})
"""Waiting reasons that turn into ImagePullBackOff until the next try."""
FOREVER_HELD: Final = frozenset({"InvalidImageName"})
"""Waiting reasons that no further try can cure: the pod object itself is wrong."""


def start_whose_turn_it_is(frame: Frame) -> None:
    """Init containers one after the other, each when the one before has ended, a sidecar has started; then the others,
    all together but for a postStart hook, which those after it wait for."""
    if frame.state.ending is not None or frame.state.sandbox is not SandboxState.UP:
        return
    for container in frame.state.inits:
        if container.state is ContainerState.PREPARED:
            _start(frame, container)
        if not (container.begun if container.app.sidecar else container.succeeded):
            return
    for container in frame.state.mains:
        if container.state is ContainerState.PREPARED:
            _start(frame, container)
        state = frame.state.container(container.app.name).state
        if container.app.post_start and state in {ContainerState.STARTING, ContainerState.SETTLING}:
            return


def handle_prepare(frame: Frame, event: events.Pulling | events.Prepared | events.PrepareFailed) -> None:
    container = frame.state.container(event.app)
    if container.state is not ContainerState.PREPARING:
        return frame.late(container)
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


def show_backoff(frame: Frame, container: Container) -> None:
    """ErrImagePull becomes ImagePullBackOff."""
    if container.state is not ContainerState.HELD or container.reason not in PULL_ERRORS:
        return
    image = container.app.image
    frame.tell("Normal", "BackOff", f'Back-off pulling image "{image}"', container.app.name)
    frame.tell("Warning", "Failed", "Error: ImagePullBackOff", container.app.name)
    message = f'Back-off pulling image "{image}": {container.reason}: {container.message}'
    frame.change(container, reason="ImagePullBackOff", message=message)


def _start(frame: Frame, container: Container) -> None:
    if frame.move(container, ContainerState.STARTING):
        frame.do(Start(container.app.name, container.attempt + 1))


def started(frame: Frame, event: events.Started) -> None:
    container = frame.state.container(event.app)
    if container.state is not ContainerState.STARTING or event.attempt != container.attempt + 1:
        return frame.late(container)
    frame.tell("Normal", "Created", f"Created container: {event.app}", event.app)
    frame.tell("Normal", "Started", f"Started container {event.app}", event.app)
    fresh = replace(
        container,
        attempt=event.attempt,
        started_at=frame.now,
        checks={},
        hooked=False,
        forced=False,
        again=False,
    )
    if frame.state.ending is not None:
        down.started_too_late(frame, fresh, frame.state.ending)
    elif container.app.post_start:
        frame.move(fresh, ContainerState.SETTLING)
        frame.do(RunHook(event.app, event.attempt, Hook.POST_START))
    else:
        frame.move(fresh, ContainerState.RUNNING)
        probing.begin(frame, event.app)
    return None


def start_failed(frame: Frame, event: events.StartFailed) -> None:
    container = frame.state.container(event.app)
    if container.state is not ContainerState.STARTING or event.attempt != container.attempt + 1:
        return frame.late(container)
    frame.tell("Warning", "Failed", f"Error: {event.message}", event.app)
    ended = Termination(event.attempt, START_ERROR_CODE, "StartError", event.message, None, frame.now)
    down.ended(
        frame,
        replace(container, attempt=event.attempt, last=ended, previous=container.last, again=False),
    )
    return None


def hook_ended(frame: Frame, event: events.HookEnded) -> None:
    container = frame.state.container(event.app)
    if event.attempt != container.attempt:
        return  # of an instance that has ended
    if event.hook is Hook.PRE_STOP:
        down.pre_stop_ended(frame, container, event.error)
    elif container.state is ContainerState.SETTLING and event.error:
        text = f"PostStartHook failed: {event.error}"
        frame.tell("Warning", "FailedPostStartHook", text, event.app)
        down.stop(frame, container, frame.state.pod.grace, "FailedPostStartHook")
    elif container.state is ContainerState.SETTLING:
        frame.move(container, ContainerState.RUNNING)
        probing.begin(frame, event.app)
