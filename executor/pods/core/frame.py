"""One step being worked out: the state so far, the effects so far. Lives for one call of `step`."""

from dataclasses import replace
from typing import Any, Literal

from executor.pods.core import status
from executor.pods.core.effects import Effect, Prepare, Report, SetTimer
from executor.pods.core.events import Timer, TimerKind
from executor.pods.core.state import Container, State
from executor.pods.core.states import CONTAINER_MOVES, SANDBOX_MOVES, ContainerState, SandboxState
from shared.wire import PodEvent


class Frame:
    """What the handlers of `step` write into."""

    def __init__(self, state: State, now: float) -> None:
        self.state = state
        self.now = now
        self.effects: list[Effect] = []

    def illegal(self) -> None:
        """Count something that could not follow from the state; nothing else changes."""
        self.state = replace(self.state, illegal=self.state.illegal + 1)

    def move(self, container: Container, to: ContainerState, **changes: Any) -> bool:
        """Bring a container into another state, with changes to its other fields. False: illegal, nothing done."""
        if (container.state, to) not in CONTAINER_MOVES:
            self.illegal()
            return False
        self.state = self.state.with_container(replace(container, state=to, **changes))
        return True

    def move_sandbox(self, to: SandboxState, **changes: Any) -> bool:
        """As `move`, for the sandbox; the changes are to the pod's state."""
        if (self.state.sandbox, to) not in SANDBOX_MOVES:
            self.illegal()
            return False
        self.state = replace(self.state, sandbox=to, **changes)
        return True

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def prepare(self, container: Container) -> None:
        """Have its image, for the next instance."""
        if self.move(container, ContainerState.PREPARING):
            self.do(Prepare(container.app.name))

    def change(self, container: Container, **changes: Any) -> Container:
        """Other fields of a container that stays in its state."""
        changed = replace(container, **changes)
        self.state = self.state.with_container(changed)
        return changed

    def late(self, container: Container) -> None:
        """An answer for a container that was given up meanwhile is late; for any other it is a bug, and counted."""
        if container.state is not ContainerState.ENDED:
            self.illegal()

    def timer(self, kind: TimerKind, after: float, app: str = "") -> None:
        self.do(SetTimer(Timer(kind, app), after))

    def tell(
        self, kind: Literal["Normal", "Warning"], reason: str, message: str, container: str = ""
    ) -> None:
        """Note an event; it leaves with the next report."""
        event = PodEvent(kind, reason, message, container, status.timestamp(self.now))
        self.state = replace(self.state, unsaid=(*self.state.unsaid, event))

    def report(self, *, urgent: bool) -> None:
        """Report if there is news, and if it is worth a message: see `_worth`."""
        self.state = status.with_conditions(self.state, self.now)
        phase = status.phase(self.state)
        if self.state.over or self.state.sandbox is SandboxState.STOPPING:
            return  # the terminal report has gone, or follows at once
        if not (urgent or self.state.spoken or phase == "Running" or self._stuck()):
            return
        made = status.pod_status(self.state)
        if made == self.state.reported and not self.state.unsaid:
            return
        self._send("TASK_RUNNING" if phase == "Running" else "TASK_STARTING", self._waiting_message(), made)

    def report_end(self) -> None:
        """The last report: how the pod ended."""
        ending = self.state.ending
        if ending is None:
            raise AssertionError("a pod without an outcome cannot have ended")
        self.state = status.with_conditions(self.state, self.now)
        self._send(ending.outcome.value, ending.message, status.pod_status(self.state))

    def _send(self, state: str, message: str, made: dict[str, Any]) -> None:
        self.do(Report(state, message, made, self.state.unsaid))
        self.state = replace(self.state, unsaid=(), spoken=True, reported=made)

    def _stuck(self) -> bool:
        """Something failed and is tried again: worth a report although the pod does not run yet."""
        held = {ContainerState.HELD, ContainerState.BACKOFF}
        return self.state.sandbox is SandboxState.HELD or any(c.state in held for c in self.state.containers)

    def _waiting_message(self) -> str:
        for container in self.state.containers:
            if container.state is ContainerState.HELD:
                return f"{container.app.name}: {container.reason}: {container.message}"
        return ""
