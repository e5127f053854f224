"""How each kind of fault is done and undone. `begin` returns what undoes it, and which agents' pods it may end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.cluster import BLKIO, Cluster
from harness.processes import children, command_of, executors, pods, send
from harness.schedule import ALL, MASTER, Planned

FILL = "fill"
"""A file that takes what is left of a disk."""


@dataclass(frozen=True)
class Begun:
    """`target`: who it really was."""

    target: str
    undo: Callable[[], None] = lambda: None
    victims: tuple[str, ...] = ()


def target_of(cluster: Cluster, wanted: str) -> str:
    if wanted not in ("leader", "follower"):
        return wanted
    leader = cluster.leader()
    return leader if wanted == "leader" else next(one for one in cluster.layout.schedulers if one != leader)


def begin(cluster: Cluster, planned: Planned) -> Begun:
    target = target_of(cluster, planned.target)
    return _KINDS[planned.kind](cluster, target, planned.argument)


def _all(cluster: Cluster, target: str) -> tuple[str, ...]:
    return cluster.layout.stores if target == ALL else (target,)


# ---- kills


def _down(cluster: Cluster, names: Iterable[str]) -> Callable[[], None]:
    """Kills them, and keeps them down until it is undone."""
    names = tuple(names)
    with cluster.lock:
        for name in names:
            cluster.processes[name].held += 1
            cluster.processes[name].kill()

    def up() -> None:
        with cluster.lock:
            for name in names:
                cluster.processes[name].held -= 1

    return up


def _kill(cluster: Cluster, target: str, _: str) -> Begun:
    return Begun(target, _down(cluster, [target]))


def _kill_quorum(cluster: Cluster, target: str, _: str) -> Begun:
    return Begun(target, _down(cluster, _all(cluster, target)[:2]))


def _end(cluster: Cluster, target: str, _: str) -> Begun:
    """As an operator does it, who starts it again."""
    with cluster.lock:
        cluster.processes[target].end()
    return Begun(target)


def _kill_all(cluster: Cluster, target: str, _: str) -> Begun:
    return Begun(target, _down(cluster, cluster.processes))


def _kill_child(cluster: Cluster, target: str, _: str) -> Begun:
    if child := cluster.pids(target)[1]:
        send(child, signal.SIGKILL)
    return Begun(target)


def _kill_both(cluster: Cluster, target: str, _: str) -> Begun:
    """As a machine that fails: the parent does not live to see its child die."""
    parent, child = cluster.pids(target)
    if parent:
        send(parent, signal.SIGSTOP)
    if child:
        send(child, signal.SIGKILL)
    with cluster.lock:
        cluster.processes[target].kill()
    return Begun(target)


def _kill_executor(cluster: Cluster, target: str, _: str) -> Begun:
    for pid in executors(target, cluster.prefix):
        send(pid, signal.SIGKILL)
    return Begun(target, victims=(target,))


def _kill_launcher(cluster: Cluster, target: str, _: str) -> Begun:
    """The process that starts an executor's pods, and is their parent."""
    for executor in executors(target, cluster.prefix):
        for pid in children(executor):
            if "executor.stage1" in command_of(pid):
                send(pid, signal.SIGKILL)
    return Begun(target, victims=(target,))


def _kill_app(cluster: Cluster, target: str, _: str) -> Begun:
    """Of the agent's oldest pod."""
    apps = [one for one in pods(cluster.prefix) if one.agent == target]
    for app in apps[:1]:
        send(app.pid, signal.SIGKILL)
    return Begun(target, victims=(target,))


# ---- stops


def _stop_pids(target: str, pids: Iterable[int]) -> Begun:
    stopped = [pid for pid in pids if pid]
    for pid in stopped:
        send(pid, signal.SIGSTOP)

    def go_on() -> None:
        for pid in reversed(stopped):
            send(pid, signal.SIGCONT)

    return Begun(target, go_on)


def _stop(cluster: Cluster, target: str, _: str) -> Begun:
    return _stop_pids(target, [cluster.processes[target].pid])


def _stop_scheduler(cluster: Cluster, target: str, which: str) -> Begun:
    parent, child = cluster.pids(target)
    return _stop_pids(target, {"both": [parent, child], "child": [child], "parent": [parent]}[which])


def _stop_executor(cluster: Cluster, target: str, _: str) -> Begun:
    return _stop_pids(target, executors(target, cluster.prefix))


# ---- the network


def _others(cluster: Cluster, target: str, which: str) -> tuple[str, ...]:
    schedulers, zookeepers = cluster.layout.schedulers, cluster.layout.zookeepers
    return {
        "zookeepers": zookeepers,
        "one zookeeper": zookeepers[:1],
        "master": (MASTER,),
        "scheduler": tuple(one for one in schedulers if one != target),
        "peers": tuple(one for one in zookeepers if one != target),
    }[which]


def _cut(cluster: Cluster, target: str, pairs: list[tuple[str, str]]) -> Begun:
    for pair in pairs:
        cluster.network.cut(*pair)

    def mend() -> None:
        for pair in pairs:
            cluster.network.mend(*pair)

    return Begun(target, mend)


def _partition(cluster: Cluster, target: str, which: str) -> Begun:
    others = _others(cluster, target, which)
    return _cut(cluster, target, [(target, one) for one in others] + [(one, target) for one in others])


def _half_partition(cluster: Cluster, target: str, which: str) -> Begun:
    """What it sends arrives, and it hears of nothing."""
    return _cut(cluster, target, [(target, one) for one in _others(cluster, target, which)])


# ---- disks and clocks


def _full_disk(cluster: Cluster, target: str, _: str) -> Begun:
    files = [cluster.disk(one) / FILL for one in _all(cluster, target)]
    for file in files:
        _fill(file)
    return Begun(target, lambda: [file.unlink(missing_ok=True) for file in files] and None)


def _fill(path: os.PathLike[str]) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass  # full


def _slow_disk(cluster: Cluster, target: str, writes: str) -> Begun:
    """So many writes a second: what its own fsync writes is counted, in the process's cgroup."""
    limits = [(BLKIO / f"{cluster.prefix}{one}", cluster.device(one)) for one in _all(cluster, target)]

    def limit(number: str) -> None:
        for cgroup, device in limits:
            (cgroup / "blkio.throttle.write_iops_device").write_text(f"{device} {number}")

    limit(writes)
    return Begun(target, lambda: limit("0"))


def _clock(cluster: Cluster, target: str, seconds: str) -> Begun:
    cluster.set_clock(target, int(seconds))
    return Begun(target, lambda: cluster.set_clock(target, 0))


_KINDS: dict[str, Callable[[Cluster, str, str], Begun]] = {
    "end-agent": _end,
    "end-scheduler": _end,
    "kill-all": _kill_all,
    "kill-child": _kill_child,
    "kill-parent": _kill,
    "kill-scheduler": _kill_both,
    "stop-scheduler": _stop_scheduler,
    "partition": _partition,
    "half-partition": _half_partition,
    "clock": _clock,
    "kill-executor": _kill_executor,
    "stop-executor": _stop_executor,
    "kill-launcher": _kill_launcher,
    "kill-app": _kill_app,
    "kill-agent": _kill,
    "stop-agent": _stop,
    "kill-master": _kill,
    "stop-master": _stop,
    "kill-zookeeper": _kill,
    "stop-zookeeper": _stop,
    "kill-quorum": _kill_quorum,
    "full-disk": _full_disk,
    "slow-disk": _slow_disk,
}
