"""Delays that grow: relaunches of a failing pod, agents that misbehave, kills and reconciliation asked again."""

from __future__ import annotations

from typing import Final

RELAUNCH_FIRST_SECONDS: Final = 10.0
RELAUNCH_MAX_SECONDS: Final = 300.0
STABLE_SECONDS: Final = 600.0
"""A task that ran this long starts afresh: both as Kubernetes' CrashLoopBackOff (kubelet.go)."""

AGENT_MAX_SECONDS: Final = 60.0


def grow(first: float, tries: int, most: float) -> float:
    """`first` doubled for each try after the first, at most `most`; 0 for no try."""
    if tries <= 0:
        return 0.0
    return min(first * 2.0 ** min(tries - 1, 30), most)


def relaunch_delay(failures: int) -> float:
    """Seconds until a pod that failed so many times in a row is launched again."""
    return grow(RELAUNCH_FIRST_SECONDS, failures, RELAUNCH_MAX_SECONDS)


def agent_delay(strikes: int) -> float:
    """Seconds an agent is left alone after so many infrastructure failures in a row; the first is free."""
    return grow(1.0, strikes - 1, AGENT_MAX_SECONDS)
