"""What is known of the health of the process; `health` answers with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is well when `problem` is empty. A `fatal` problem ends liveness: restart the process.

    `detail`: what there is to know when it is well.
    """

    name: str
    problem: str = ""
    fatal: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What the process knows of its own health."""

    checks: tuple[Check, ...] = ()
