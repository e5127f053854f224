"""The states of a container and of the sandbox around it, and the table of what may follow what.

Of a container (one app of the pod, over all its instances):

       ┌────────────────────── again, at once or after a back-off ───────────────────────┐
       ▼                                                                                 │
    PREPARING ──▶ PREPARED ──▶ STARTING ─┬───────────────▶ RUNNING ──▶ LEAVING ──▶ STOPPING ──▶ ENDED
     │    ▲                              └─▶ SETTLING ──────▲ │                      (from any other state, too)
     ▼    │                                                   └───▶ BACKOFF
      HELD

Of the sandbox (the namespaces that the containers share):

    ABSENT ──▶ MAKING ──▶ UP ──▶ STOPPING ──▶ GONE        HELD: between two attempts to make it
               │    ▲
               ▼    │
                HELD
A move that the tables do not name is illegal: it changes nothing and is counted.
"""

from enum import StrEnum
from typing import Final


class ContainerState(StrEnum):
    """Where a container is. `status` maps these to the waiting, running and terminated of Kubernetes."""

    PREPARING = "preparing"  # the image is looked for, pulled if need be
    PREPARED = "prepared"  # the image is there; the sandbox is not, or it is not the container's turn
    HELD = "held"  # cannot be prepared for a reason outside of it; tried again
    STARTING = "starting"  # the launcher was asked
    SETTLING = "settling"  # runs; its postStart hook has not ended
    RUNNING = "running"
    LEAVING = "leaving"  # is to end: its preStop hook runs, or others have to end before it
    STOPPING = "stopping"  # was told to end, has not yet
    BACKOFF = "backoff"  # ended; starts again after a while
    ENDED = "ended"  # never runs again


class SandboxState(StrEnum):
    """Where the pod's sandbox is."""

    ABSENT = "absent"  # waits for the images: stage1 reads what the apps are when it makes the sandbox
    MAKING = "making"
    HELD = "held"  # could not be made; tried again
    UP = "up"
    STOPPING = "stopping"
    GONE = "gone"


_C = ContainerState
_S = SandboxState

_STARTED: Final = (_C.STARTING, _C.SETTLING, _C.RUNNING, _C.LEAVING, _C.STOPPING)

CONTAINER_MOVES: Final[frozenset[tuple[ContainerState, ContainerState]]] = frozenset(
    {
        (_C.PREPARING, _C.PREPARED),
        (_C.PREPARING, _C.HELD),
        (_C.PREPARED, _C.STARTING),
        (_C.HELD, _C.PREPARING),
        (_C.STARTING, _C.RUNNING),
        (_C.STARTING, _C.SETTLING),
        (_C.STARTING, _C.STOPPING),
        (_C.SETTLING, _C.RUNNING),
        (_C.SETTLING, _C.LEAVING),
        (_C.RUNNING, _C.LEAVING),
        (_C.LEAVING, _C.STOPPING),
        (_C.BACKOFF, _C.PREPARING),
    }
    | {(state, _C.PREPARING) for state in _STARTED}
    | {(state, _C.BACKOFF) for state in _STARTED}
    | {(state, _C.ENDED) for state in ContainerState if state is not _C.ENDED}
)

SANDBOX_MOVES: Final[frozenset[tuple[SandboxState, SandboxState]]] = frozenset(
    {
        (_S.ABSENT, _S.MAKING),
        (_S.ABSENT, _S.STOPPING),
        (_S.MAKING, _S.UP),
        (_S.MAKING, _S.HELD),
        (_S.HELD, _S.MAKING),
        (_S.HELD, _S.STOPPING),
        (_S.UP, _S.STOPPING),
        (_S.STOPPING, _S.GONE),
    }
)

ALIVE: Final = frozenset(_STARTED)
"""States in which a process of the container exists or is about to."""
