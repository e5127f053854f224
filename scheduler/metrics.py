"""What the engine is about, for Prometheus: read from its state when somebody asks, kept nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from scheduler.framework.core.state import State


class EngineCollector(Collector):
    """Gauges of the state now, counters since this process started. `connected`: whether Mesos answers us."""

    def __init__(self, state: Callable[[], State], connected: Callable[[], bool]) -> None:
        self._state = state
        self._connected = connected

    def collect(self) -> Iterator[Metric]:
        """One family a subject; labels are states in lower case."""
        state = self._state()
        yield GaugeMetricFamily(
            "gantry_mesos_connected", "1 while subscribed to a Mesos master", float(self._connected())
        )
        yield GaugeMetricFamily("gantry_pods", "pods in the store", len(state.pods))
        yield GaugeMetricFamily(
            "gantry_pods_waiting", "pods that wait for an agent to fit on", len(state.pending)
        )
        yield GaugeMetricFamily(
            "gantry_offers_held", "Mesos offers that are not answered yet", len(state.offers)
        )
        yield _by("gantry_tasks", "tasks on record, by state", "state", _states(state))
        ready = Counter("true" if node.ready else "false" for node in state.nodes.values())
        yield _by("gantry_nodes", "nodes, by readiness", "ready", ready)
        family = CounterMetricFamily("gantry_anomalies", "what should not happen", labels=["kind"])
        for kind in ("illegal task transitions", "unwanted tasks killed"):
            family.add_metric([kind], state.counters[kind])
        yield family


def _states(state: State) -> Counter[str]:
    return Counter(task.state.name.lower() for task in state.tasks.values())


def _by(name: str, text: str, label: str, counts: Counter[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def registry(state: Callable[[], State], connected: Callable[[], bool]) -> CollectorRegistry:
    """A registry of its own: nothing of the process' other libraries is in it."""
    made = CollectorRegistry()
    made.register(EngineCollector(state, connected))
    return made
