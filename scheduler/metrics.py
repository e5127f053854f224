"""What the engine is about, for Prometheus: read from its state when somebody asks, kept nowhere else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from scheduler.framework.core.state import State
from scheduler.framework.mesos import Mesos
from scheduler.framework.meter import UNFIT
from scheduler.mesosmetrics import MesosCollector
from scheduler.store import Store


class Takeover:
    """How this process came to lead. `epoch` is 0 and `seconds` too before it did."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.count = 0
        self.epoch = 0
        self.seconds = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """From winning the election to serving writes."""
        began = self._clock()
        yield
        self.seconds = self._clock() - began
        self.count += 1


class LeadershipCollector(Collector):
    """What every instance has, leading or not."""

    def __init__(self, leads: Callable[[], bool], takeover: Takeover, store: Store) -> None:
        self._leads = leads
        self._takeover = takeover
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """One family a subject."""
        leads = self._leads()
        yield GaugeMetricFamily("gantry_leader", "1 while this scheduler leads", float(leads))
        yield GaugeMetricFamily(
            "gantry_leader_epoch", "of this scheduler's leadership, 0 without", self._takeover.epoch * leads
        )
        family = CounterMetricFamily("gantry_takeovers", "times that this scheduler came to lead")
        family.add_metric([], self._takeover.count)
        yield family
        yield GaugeMetricFamily(
            "gantry_takeover_seconds",
            "from winning the election to serving writes, the last time",
            self._takeover.seconds,
        )
        yield GaugeMetricFamily(
            "gantry_store_connected", "1 while the store's servers answer", float(not self._store.trouble)
        )
        yield GaugeMetricFamily(
            "gantry_store_version", "resourceVersion that this scheduler has reached", self._store.version
        )
        yield GaugeMetricFamily(
            "gantry_store_quarantined", "objects that cannot be read", len(self._store.quarantined)
        )


class EngineCollector(Collector):
    """Gauges of the state now, counters since this process started. `connected`: whether Mesos answers us. `state`:
    None while this scheduler does not lead and has none."""

    def __init__(
        self,
        state: Callable[[], State | None],
        connected: Callable[[], bool],
        mesos: Callable[[], Mesos | None],
    ) -> None:
        self._mesos = mesos
        self._state = state
        self._connected = connected

    def collect(self) -> Iterator[Metric]:
        """One family a subject; labels are states in lower case."""
        state = self._state()
        if state is None:
            return
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
        mesos = self._mesos()
        family.add_metric([UNFIT], mesos.meter.anomalies[UNFIT] if mesos else 0)
        yield family


def _states(state: State) -> Counter[str]:
    return Counter(task.state.name.lower() for task in state.tasks.values())


def _by(name: str, text: str, label: str, counts: Counter[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def registry(
    state: Callable[[], State | None],
    connected: Callable[[], bool],
    takeover: Takeover,
    store: Store,
    mesos: Callable[[], Mesos | None] = lambda: None,
) -> CollectorRegistry:
    """A registry of its own: nothing of the process' other libraries is in it."""
    made = CollectorRegistry()
    made.register(EngineCollector(state, connected, mesos))
    made.register(MesosCollector(mesos))
    made.register(LeadershipCollector(lambda: state() is not None, takeover, store))
    return made
