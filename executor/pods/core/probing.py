"""Probes: when they are asked, and what follows from their answers.

As the kubelet's pkg/kubelet/prober/worker.go: a startup probe holds the others back until it succeeded; a probe is
asked every period, never twice at a time; its answer counts once it came often enough in a row; what could not be
asked counts for nothing.
"""

from dataclasses import replace
from typing import assert_never

from executor.pods.core import down, events
from executor.pods.core.effects import MakeCheck
from executor.pods.core.events import Answer, TimerKind
from executor.pods.core.frame import Frame
from executor.pods.core.spec import Probe, ProbeKind, RestartPolicy
from executor.pods.core.state import Check, Container
from executor.pods.core.states import ContainerState


def begin(frame: Frame, app: str) -> None:
    """An instance is RUNNING: its probes begin with their initial answers (results of the kubelet's newWorker)."""
    checks = {kind: Check(passed=kind is ProbeKind.LIVENESS) for kind in ProbeKind}
    container = frame.change(frame.state.container(app), checks=checks)
    if container.app.startup is None:
        _has_started(frame, container)
    else:
        _wait(frame, container, ProbeKind.STARTUP, container.app.startup)


def _has_started(frame: Frame, container: Container) -> None:
    container = frame.change(container, begun=True)
    for kind in (ProbeKind.LIVENESS, ProbeKind.READINESS):
        probe = container.app.probe(kind)
        if probe is not None:
            _wait(frame, frame.state.container(container.app.name), kind, probe)


def _wait(frame: Frame, container: Container, kind: ProbeKind, probe: Probe) -> None:
    """Until the initial delay is over, which counts from the container's start."""
    began = frame.now if container.started_at is None else container.started_at
    left = began + probe.initial_delay - frame.now
    if left > 0:
        frame.timer(TimerKind(kind.value), left, container.app.name)
    else:
        _ask(frame, container, kind, probe)


def due(frame: Frame, app: str, kind: ProbeKind) -> None:
    """It is time for a check."""
    container = frame.state.container(app)
    probe = container.app.probe(kind)
    # A timer may be left over from the instance before.
    if probe is not None and _is_asked(container, kind):
        _ask(frame, container, kind, probe)


def _is_asked(container: Container, kind: ProbeKind) -> bool:
    return container.state is ContainerState.RUNNING and container.started is not (kind is ProbeKind.STARTUP)


def _ask(frame: Frame, container: Container, kind: ProbeKind, probe: Probe) -> None:
    check = container.checks[kind]
    if check.flying:
        _note(frame, container, kind, replace(check, due=True))
        return
    _note(frame, container, kind, replace(check, flying=True, due=False))
    frame.do(MakeCheck(container.app.name, container.attempt, kind))
    frame.timer(TimerKind(kind.value), probe.period, container.app.name)


def _note(frame: Frame, container: Container, kind: ProbeKind, check: Check) -> Container:
    return frame.change(container, checks={**container.checks, kind: check})


def probed(frame: Frame, event: events.Probed) -> None:
    container = frame.state.container(event.app)
    probe = container.app.probe(event.probe)
    if event.attempt != container.attempt or not _is_asked(container, event.probe) or probe is None:
        return  # late: the instance has ended, or is about to
    check = container.checks[event.probe]
    if not check.flying:
        frame.illegal()
        return
    again = check.due
    container = _note(frame, container, event.probe, replace(check, flying=False, due=False))
    _answered(frame, container, event, probe)
    if again:
        due(frame, event.app, event.probe)


def _answered(frame: Frame, container: Container, event: events.Probed, probe: Probe) -> None:
    name, word = event.app, event.probe.value.capitalize()
    match event.answer:
        case Answer.UNKNOWN:
            text = f"{word} probe errored and resulted in unknown state: {event.message}"
            frame.tell("Warning", "Unhealthy", text, name)
            return
        case Answer.FAILURE:
            good = False
        case Answer.SUCCESS:
            good = True
            if event.message:
                frame.tell("Warning", "ProbeWarning", f"{word} probe warning: {event.message}", name)
        case _:
            assert_never(event.answer)
    check = container.checks[event.probe]
    run = check.run + 1 if check.last is good else 1
    if not good and _worth_telling(run, probe):
        frame.tell("Warning", "Unhealthy", f"{word} probe failed: {event.message}", name)
    counts = run >= (probe.success_threshold if good else probe.failure_threshold)
    passed = good if counts else check.passed
    container = _note(frame, container, event.probe, replace(check, last=good, run=run, passed=passed))
    if counts:
        _counts(frame, container, event.probe, probe, good=good)


def _worth_telling(run: int, probe: Probe) -> bool:
    """Of what fails for days not every failure makes an event; the kubelet's recorder has a filter for spam."""
    return run <= probe.failure_threshold or run & (run - 1) == 0


def _counts(frame: Frame, container: Container, kind: ProbeKind, probe: Probe, *, good: bool) -> None:
    if good:
        if kind is ProbeKind.STARTUP:
            _has_started(frame, container)
        return
    if kind is ProbeKind.READINESS:
        return
    grace = frame.state.pod.grace if probe.grace is None else probe.grace
    message = f"Container {container.app.name} failed {kind.value} probe"
    if container.app.sidecar or frame.state.pod.restart_policy is not RestartPolicy.NEVER:
        message += ", will be restarted"
    down.stop(frame, container, grace, message, again=True)
