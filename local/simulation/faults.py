"""What goes wrong, and when: a schedule drawn from a seed before anything begins.

The same seed gives the same faults at the same times; how they cross with what the scheduler does at that moment is
up to the machine. Nothing is done here.
"""

import random
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """Of a fault."""

    AGENT_LOST = "agent lost"
    """The machine dies with all it runs; after the pause an empty agent with a new id has its address."""
    AGENT_AWAY = "agent away"
    """The link breaks; after the pause the agent is back with its id and its tasks."""
    FLAP = "flap"
    """The link breaks twice in a row; what was offered at the first return is rescinded at the second break."""
    EXECUTOR_LOST = "executor lost"
    """All executors of the agent die with their tasks."""
    SLOW = "slow"
    """Status updates of the agent are late by the pause, for the time of ten pauses."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`at`: seconds after the first launch; `agent`: chooses among those that have tasks then; `pause`: seconds."""

    at: float
    kind: Kind
    agent: int
    pause: float


def schedule(seed: int, agents: int, rate: float, seconds: float) -> list[Fault]:
    """About `rate` faults a second for `seconds`, in the order of their times."""
    dice = random.Random(seed)
    faults: list[Fault] = []
    at = dice.expovariate(rate) if rate > 0 else seconds
    while at < seconds:
        faults.append(Fault(at, dice.choice(list(Kind)), dice.randrange(agents), dice.uniform(0.02, 0.5)))
        at += dice.expovariate(rate)
    return faults
