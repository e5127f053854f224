"""How many placement decisions a second one core makes: 5,000 agents, 50,000 pods, filters and scores on.

    python -m benchmarks.placement [--agents N] [--pods N] [--json FILE]

The agents are as a recorded offer describes them (tests/local/wire), with names, sizes and attributes of their own:
three sizes, racks, disks and zones, a tenth tainted or cordoned, a part in use. The pods are 250 workloads in mixed
order: plain ones, node selectors, required and preferred node affinity,
tolerations, host ports, spreading over zones, anti-affinity by host, affinity by zone. A decision is one pod that was
given a node or found to fit on none. Measured is the CPU time of this process, best of three. Also measured: the same
for each kind of pod alone, in the frames that the engine uses (how long the longest is), through the whole engine (from
the JSON of offers to the launches in ACCEPTs, with all records; what is left of offers comes again), how time and
memory grow with agents and with pods. The peer in the same run is what placement would cost without classes and
groups: every filter on every agent, for each pod.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._engine import through_engine
from scheduler.framework.core.entities import AgentInfo, Node, Taint
from scheduler.framework.core.placement import Candidate, Outcome, Planner, Topology, Want, place
from scheduler.framework.core.placement_filters import static_reason
from scheduler.framework.core.placement_topology import Kind, Residents
from scheduler.framework.core.pods import pod_from_object
from scheduler.framework.core.policy import EXECUTOR, Policy
from scheduler.framework.core.vectors import Vector

Json = dict[str, Any]
SEED = 7
ZONES, RACKS, WORKLOADS = 3, 50, 250
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
SIZES = ((16, 64), (32, 128), (64, 256))
KINDS = ("plain", "selector", "affinity", "wish", "tolerant", "port", "zones", "apart", "together")
MIX = (40, 12, 10, 12, 6, 4, 6, 6, 4)
"""Parts of a hundred workloads of each kind."""


def agents(count: int, seed: int = SEED) -> list[Node]:
    rng = random.Random(seed)
    return [_agent(number, rng) for number in range(count)]


def _agent(number: int, rng: random.Random) -> Node:
    cpus, memory = SIZES[rng.randrange(len(SIZES))]
    name = f"agent-{number:05}"
    labels = {
        HOST: name,
        ZONE: f"z{number % ZONES}",
        "rack": f"r{number % RACKS:02}",
        "disk": "ssd" if number % 4 == 0 else "hdd",
        "kubernetes.io/os": "linux",
    }
    total = Vector(cpus * 1000, memory * 1_024_000, 500_000_000)
    marks = {0: Taint("dedicated", "batch", "NoSchedule"), 1: Taint("slow", "", "PreferNoSchedule")}
    taints = tuple(mark for remainder, mark in marks.items() if number % 20 == remainder)
    info = AgentInfo(name, name, 5051, total=total)
    return Node(
        name,
        labels=tuple(sorted(labels.items())),
        taints=taints,
        unschedulable=number % 50 == 2,
        info=info,
    )


def candidates(nodes: list[Node], seed: int = SEED) -> list[Candidate]:
    """Offers of what is free; half of the agents run our executor."""
    rng = random.Random(seed + 1)
    found = []
    for node in nodes:
        assert node.info is not None
        assert node.info.total is not None
        used = rng.randrange(0, 60)
        total = node.info.total
        free = Vector(total.cpus * (100 - used) // 100, total.mem * (100 - used) // 100, total.disk)
        overhead = EXECUTOR if rng.random() < 0.5 else Vector()
        found.append(Candidate(node.name, node, free, ((31000, 32000),), overhead=overhead, room=110))
    return found


def _spec(kind: str, number: int, rng: random.Random) -> Json:
    requests = {
        "cpu": f"{rng.choice((100, 250, 500, 1000))}m",
        "memory": f"{rng.choice((128, 256, 512, 1024))}Mi",
    }
    container: Json = {"name": "main", "resources": {"requests": requests}}
    spec: Json = {"containers": [container]}
    own = {"labelSelector": {"matchLabels": {"app": f"app-{number}"}}}
    rack = {
        "key": "rack",
        "operator": "In",
        "values": [f"r{number % RACKS:02}", f"r{(number + 7) % RACKS:02}"],
    }
    if kind == "selector":
        spec["nodeSelector"] = {"disk": "ssd"}
    elif kind == "affinity":
        spec["affinity"] = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [rack]}]}}}
    elif kind == "wish":
        wish = {"weight": 50, "preference": {"matchExpressions": [rack]}}
        spec["affinity"] = {"nodeAffinity": {PREFERRED: [wish]}}
    elif kind == "tolerant":
        spec["tolerations"] = [{"key": "dedicated", "operator": "Exists"}]
    elif kind == "port":
        container["ports"] = [{"containerPort": 80, "hostPort": 31000 + number}]
    elif kind == "zones":
        rule = {"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", **own}
        spec["topologySpreadConstraints"] = [rule]
    elif kind == "apart":
        spec["affinity"] = {"podAntiAffinity": {REQUIRED: [{"topologyKey": HOST, **own}]}}
    elif kind == "together":
        spec["affinity"] = {"podAffinity": {REQUIRED: [{"topologyKey": ZONE, **own}]}}
    return spec


def wants(count: int, kind: str = "", seed: int = SEED) -> list[Want]:
    """Pods of WORKLOADS workloads, in an order that mixes them."""
    rng = random.Random(seed + 2)
    specs = []
    for number in range(WORKLOADS):
        chosen = kind or rng.choices(KINDS, MIX)[0]
        specs.append(_spec(chosen, number, rng))
    found = []
    for number in range(count):
        workload = rng.randrange(WORKLOADS)
        meta = {"uid": f"pod-{number}", "name": f"pod-{number}", "namespace": "default"}
        pod = pod_from_object(
            {"metadata": {**meta, "labels": {"app": f"app-{workload}"}}, "spec": specs[workload]}
        )
        found.append(Want(pod.uid, pod.needs, pod.namespace, pod.labels))
    return found


def topology(nodes: list[Node], many: list[Want]) -> Topology:
    return Topology({one.name: one for one in nodes}, Residents())


def measured(
    nodes: list[Node], many: list[Want], strategy: str = "binpack", rounds: int = 3
) -> tuple[float, Outcome]:
    """CPU seconds of the fastest round, and what came of it."""
    best, outcome = float("inf"), Outcome()
    for _ in range(rounds):
        offered, counts = candidates(nodes), topology(nodes, many)
        gc.collect()
        start = time.process_time()
        outcome = place(many, offered, counts, strategy=strategy)
        best = min(best, time.process_time() - start)
    return best, outcome


def in_frames(nodes: list[Node], many: list[Want]) -> tuple[float, float, int]:
    """CPU seconds in all, of the longest frame, and the number of frames; as the engine cuts them."""
    policy, residents = Policy(), Residents()
    by_name, kinds = {one.name: one for one in nodes}, {one.uid: one for one in many}
    places = {one.uid: index for index, one in enumerate(many)}
    planner, at = Planner(candidates(nodes)), 0
    whole, longest, frames = 0.0, 0.0, 0
    counts = Topology(by_name, residents)
    while at < len(many):
        gc.collect()
        start = time.process_time()
        outcome = planner.run(
            itertools.islice(many, at, None),
            counts,
            most_pods=policy.frame_pods,
            most_work=policy.frame_work,
        )
        spent = time.process_time() - start
        whole, longest, frames = whole + spent, max(longest, spent), frames + 1
        at = places[outcome.postponed[0]] if outcome.postponed else len(many)
        _accepted(planner, residents, kinds)
    return whole, longest, frames


def _accepted(planner: Planner, residents: Residents, wants_of: dict[str, Want]) -> None:
    """The offers used are gone; the remainder of each agent is offered again, as Mesos does soon."""
    where = {uid: one.node.name for one in planner.candidates for uid in one.uids}
    residents.dirty.update(where)

    def look(uid: str) -> tuple[Kind, tuple[str, ...]]:
        want = wants_of[uid]
        return Kind(want.namespace, want.labels, want.needs.rules.away), (where[uid],)

    residents.refresh(look)
    planner.go_on()


def naive(nodes: list[Node], many: list[Want]) -> float:
    """CPU seconds a pod with every filter asked of every agent (resources and rules about nodes only)."""
    offered = candidates(nodes)
    start = time.process_time()
    for want in many:
        fitting = [
            one
            for one in offered
            if static_reason(want.needs, one.node, one.labels) is None
            and one.free.covers(want.needs.amounts + one.overhead)
        ]
        if fitting:
            min(fitting, key=lambda one: one.free_share).take(want.uid, want.needs)
    return (time.process_time() - start) / len(many)


def memory(work: Callable[[], object]) -> int:
    """Bytes of Python objects at the peak of `work`, above what there was before."""
    gc.collect()
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def run(agent_count: int, pod_count: int) -> Json:
    nodes, many = agents(agent_count), wants(pod_count)
    report: Json = {
        "agents": agent_count,
        "pods": pod_count,
        "workloads": WORKLOADS,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    for strategy in ("binpack", "spread"):
        seconds, outcome = measured(nodes, many, strategy)
        report[strategy] = {
            "decisions_per_second": round(pod_count / seconds),
            "placed": pod_count - len(outcome.unplaced),
            "unplaced": len(outcome.unplaced),
        }
    whole, longest, frames = in_frames(nodes, many)
    report["frames"] = {
        "decisions_per_second": round(pod_count / whole),
        "longest_ms": round(longest * 1000, 1),
        "count": frames,
    }
    report["engine"] = through_engine(nodes, many[: pod_count // 5], ZONE)
    report["kinds"] = {kind: _rate(nodes, wants(pod_count // 5, kind)) for kind in KINDS}
    report["growth_agents"] = {
        str(count): _rate(agents(count), many) for count in (agent_count // 10, agent_count // 2, agent_count)
    }
    report["growth_pods"] = {
        str(count): _rate(nodes, many[:count]) for count in (pod_count // 10, pod_count // 2, pod_count)
    }
    offered = candidates(nodes)
    report["memory_mb"] = {
        "agents": round(memory(lambda: agents(agent_count)) / 1e6, 1),
        "pods": round(memory(lambda: wants(pod_count)) / 1e6, 1),
        "placing": round(memory(lambda: place(many, offered, topology(nodes, many))) / 1e6, 1),
    }
    report["memory_mb_by_agents"] = {
        str(count): _megabytes(agents(count), many)
        for count in (agent_count // 10, agent_count // 2, agent_count)
    }
    report["memory_mb_by_pods"] = {
        str(count): _megabytes(nodes, many[:count]) for count in (pod_count // 10, pod_count // 2, pod_count)
    }
    report["naive_decisions_per_second"] = round(1 / naive(nodes, many[:50]))
    return report


def _rate(nodes: list[Node], many: list[Want]) -> int:
    return round(len(many) / measured(nodes, many, rounds=1)[0])


def _megabytes(nodes: list[Node], many: list[Want]) -> float:
    """At the peak of placing, offers included."""
    return round(memory(lambda: place(many, candidates(nodes), topology(nodes, many))) / 1e6, 1)


def show(report: Json) -> None:
    """For people."""
    print(
        f"{report['agents']} agents, {report['pods']} pods of {report['workloads']} workloads, one core, CPU time"
    )
    for strategy in ("binpack", "spread"):
        one = report[strategy]
        rate, placed = one["decisions_per_second"], one["placed"]
        print(f"  {strategy:8} {rate:7,} decisions/s  ({placed:,} placed, {one['unplaced']:,} fit nowhere)")
    frames = report["frames"]
    print(
        f"  in frames {frames['decisions_per_second']:6,} decisions/s  "
        f"({frames['count']} frames, the longest {frames['longest_ms']} ms)"
    )
    engine = report["engine"]
    print(
        f"  engine    {engine['decisions_per_second']:6,} decisions/s  ({engine['launched']:,} launched, "
        f"{engine['frames']} frames, the first {engine['first_frame_ms']} ms, then at most "
        f"{engine['longest_after_ms']} ms)"
    )
    print(f"  every filter on every agent: {report['naive_decisions_per_second']:,} decisions/s")
    for title, key in (("kind alone", "kinds"), ("agents", "growth_agents"), ("pods", "growth_pods")):
        print(f"  by {title}: " + ", ".join(f"{name} {rate:,}/s" for name, rate in report[key].items()))
    for title, key in (("agents", "memory_mb_by_agents"), ("pods", "memory_mb_by_pods")):
        print(f"  memory by {title}: " + ", ".join(f"{name} {size} MB" for name, size in report[key].items()))
    print("  memory: " + ", ".join(f"{name} {size} MB" for name, size in report["memory_mb"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--agents", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=50_000)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    report = run(args.agents, args.pods)
    show(report)
    print(json.dumps(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
