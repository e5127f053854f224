"""The settings of the core; scheduler.config makes them of the flags."""

from dataclasses import dataclass
from typing import Final

from scheduler.framework.core.vectors import Vector

EXECUTOR: Final = Vector(cpus=100, mem=64_000)


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the core. All times in seconds."""

    executor_version: str = "0"
    """Hash over all that makes an ExecutorInfo; part of every executor id."""
    executor: Vector = EXECUTOR
    """Overhead of one executor instance."""
    roles: tuple[str, ...] = ("",)
    """The Mesos roles of the framework; the first is that of pods which ask for none."""
    idle: float = 900.0
    """Seconds without a pod after which an executor leaves; infinity for never."""
    max_pods: int = 110
    """Pods on one node, as the kubelet's default."""
    placement: str = "binpack"
    """Or spread; what pods get that do not say."""
    frame_pods: int = 200
    frame_work: int = 40_000
    """Pods launched and nodes looked at in one frame; the rest is for the next one, so that none takes long."""
    long_filter: float = 3600.0
    launch_overdue: float = 60.0
    kill_retry: float = 5.0
    kill_retry_max: float = 60.0
    away: float = 300.0
    """How long a pod without a toleration of its own waits for an unreachable task."""
    reconcile_first: float = 5.0
    reconcile_max: float = 300.0
    implicit_every: float = 600.0
    dismiss_again: float = 30.0
    """When an executor that is to leave is told once more."""
    revive_first: float = 15.0
    revive_max: float = 300.0
    report_after: float = 1.0
    report_again: float = 60.0
    maintenance_lead: float = 3600.0
    """So long before an agent's maintenance its node takes no more pods and its pods begin to move."""
    maintenance_stop: float = 120.0
    """So long before, beside their own grace, pods move whose turn has not come."""
    maintenance_moves: int = 5
    """Pods that move at once until then."""
    maintenance_again: float = 60.0
    """When a declined inverse offer may come again."""
    stray_grace: float = 60.0
    """How long reserved disk of ours that has no record is left alone."""
    nodes_gone: float = 40.0
    """An agent that the master no longer lists is NotReady after this long (a master that failed over
    learns of its agents one by one)."""
