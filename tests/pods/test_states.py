"""The tables of what may follow what: every pair."""

from itertools import product

import pytest

from executor.pods.core.frame import Frame
from executor.pods.core.spec import App, Pod, RestartPolicy
from executor.pods.core.state import Container, State
from executor.pods.core.states import CONTAINER_MOVES, SANDBOX_MOVES, ContainerState, SandboxState

LEGAL = {
    "preparing": "prepared held ended",
    "prepared": "starting ended",
    "held": "preparing ended",
    "starting": "settling running stopping preparing backoff ended",
    "settling": "running leaving preparing backoff ended",
    "running": "leaving preparing backoff ended",
    "leaving": "stopping preparing backoff ended",
    "stopping": "preparing backoff ended",
    "backoff": "preparing ended",
    "ended": "",
}
SANDBOX_LEGAL = {
    "absent": "making stopping",
    "making": "up held",
    "held": "making stopping",
    "up": "stopping",
    "stopping": "gone",
    "gone": "",
}


def frame(
    container: ContainerState = ContainerState.PREPARING, sandbox: SandboxState = SandboxState.ABSENT
) -> Frame:
    app = App("a", "busybox")
    pod = Pod("u", "default", "p", RestartPolicy.ALWAYS, (app,))
    return Frame(State(pod, 0.0, (Container(app, container),), sandbox), 0.0)


@pytest.mark.parametrize(("old", "new"), list(product(ContainerState, repeat=2)))
def test_container(old: ContainerState, new: ContainerState) -> None:
    f = frame(container=old)
    legal = new in LEGAL[old].split()
    assert f.move(f.state.containers[0], new) is legal
    assert f.state.containers[0].state is (new if legal else old)
    assert f.state.illegal == (0 if legal else 1)


@pytest.mark.parametrize(("old", "new"), list(product(SandboxState, repeat=2)))
def test_sandbox(old: SandboxState, new: SandboxState) -> None:
    f = frame(sandbox=old)
    legal = new in SANDBOX_LEGAL[old].split()
    assert f.move_sandbox(new) is legal
    assert f.state.sandbox is (new if legal else old)
    assert f.state.illegal == (0 if legal else 1)


def test_every_state_can_be_reached_and_left() -> None:
    for moves, first, last in (
        (CONTAINER_MOVES, ContainerState.PREPARING, ContainerState.ENDED),
        (SANDBOX_MOVES, SandboxState.ABSENT, SandboxState.GONE),
    ):
        states = type(first)
        reached = {first}
        while more := {new for old, new in moves if old in reached} - reached:
            reached |= more
        assert reached == set(states)
        assert {old for old, _ in moves} == set(states) - {last}
