"""What the master knows: frameworks, agents, tasks and offers, as plain state.

Nothing here decides or sends anything. All ids are strings; infos are messages as `local.wire.proto` parses them.
"""

from asyncio import TimerHandle
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from local.master.validation.frameworks import capabilities, roles
from local.master.validation.resources import bag
from local.tasks import Task
from local.wire.proto import Json
from local.wire.stream import EventStream
from shared.mesos.resources import Resources

MAX_COMPLETED_TASKS = 1000  # a framework, src/master/constants.hpp
MAX_UNREACHABLE_TASKS = 1000


class Link(Protocol):
    """The way to an agent."""

    def send(self, message: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Offer:
    offer_id: str
    framework_id: str
    agent_id: str
    role: str
    resources: Resources


@dataclass(eq=False)
class Framework:
    """`recovered`: known from agents only, it has not subscribed with this master yet."""

    framework_id: str
    info: Json
    recovered: bool = False
    active: bool = False
    stream: EventStream | None = None
    tasks: dict[str, Task] = field(default_factory=dict)
    unreachable: dict[str, Task] = field(default_factory=dict)
    completed: deque[Task] = field(default_factory=lambda: deque(maxlen=MAX_COMPLETED_TASKS))
    offers: dict[str, Offer] = field(default_factory=dict)
    executors: dict[str, dict[str, Json]] = field(default_factory=dict)  # by agent, then executor id
    registered: float = 0.0
    reregistered: float = 0.0
    unregistered: float = 0.0
    heartbeat: TimerHandle | None = None
    failover: TimerHandle | None = None

    @property
    def connected(self) -> bool:
        return self.stream is not None

    @property
    def roles(self) -> set[str]:
        return set(roles(self.info))

    @property
    def capabilities(self) -> frozenset[str]:
        return capabilities(self.info)

    @property
    def partition_aware(self) -> bool:
        return "PARTITION_AWARE" in self.capabilities

    def state_or_lost(self, state: str) -> str:
        """`state`, or TASK_LOST for a framework that does not know partitions."""
        return state if self.partition_aware else "TASK_LOST"

    def send(self, kind: str, body: Json | None = None) -> None:
        """One event, when the framework is connected."""
        if self.stream is not None:
            self.stream.send({"type": kind} if body is None else {"type": kind, kind.lower(): body})

    def add_unreachable(self, task: Task) -> None:
        self.unreachable[task.task_id] = task
        while len(self.unreachable) > MAX_UNREACHABLE_TASKS:
            del self.unreachable[next(iter(self.unreachable))]


@dataclass(eq=False)
class Agent:
    """A registered agent; disconnected (`link` None) until it comes back or its pings time out."""

    agent_id: str
    info: Json  # hostname, port, resources, attributes, id, checkpoint
    ip: str
    version: str
    total: Resources
    link: Link | None
    tasks: dict[tuple[str, str], Task] = field(default_factory=dict)  # by framework and task id
    executors: dict[str, dict[str, Json]] = field(default_factory=dict)  # by framework, then executor id
    offers: dict[str, Offer] = field(default_factory=dict)
    killed: set[tuple[str, str]] = field(default_factory=set)  # tasks to kill when the agent is back
    registered: float = 0.0
    reregistered: float = 0.0
    deactivated: Json | None = None
    """As the registry has it, None for an agent that is in use."""
    changes: int = 0
    """Counts those of its tasks, executors and offers."""
    shown: tuple[tuple[Any, ...], tuple[Any, ...], Json] | None = None
    """What GET_AGENTS showed last, after what it depends on; see `views`."""
    missed_pings: int = 0
    ping_timer: TimerHandle | None = None

    @property
    def connected(self) -> bool:
        return self.link is not None

    @property
    def active(self) -> bool:
        """Whether something may be offered there."""
        return self.connected and self.deactivated is None

    @property
    def machine(self) -> tuple[str, str]:
        return self.info["hostname"].lower(), self.ip

    @property
    def pid(self) -> str:
        return f"slave(1)@{self.ip}:{self.info['port']}"

    def send(self, message: Json) -> None:
        if self.link is not None:
            self.link.send(message)

    def used(self) -> Iterator[Resources]:
        """What each task that has not ended and each executor holds."""
        yield from (task.resources for task in self.tasks.values() if not task.terminal)
        for executors in self.executors.values():
            yield from (bag(executor.get("resources", [])) for executor in executors.values())

    def tasks_of(self, framework_id: str) -> list[Task]:
        return [task for (fid, _), task in self.tasks.items() if fid == framework_id]
