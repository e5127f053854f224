"""What went to and came from Mesos, and how long the engine took, for Prometheus: counted since this process began."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from scheduler.framework.mesos import Mesos
from scheduler.framework.meter import Histogram


class MesosCollector(Collector):
    """`mesos`: the engine's door; None while this scheduler does not lead, and has none."""

    def __init__(self, mesos: Callable[[], Mesos | None]) -> None:
        self._mesos = mesos

    def collect(self) -> Iterator[Metric]:
        """One family a subject."""
        mesos = self._mesos()
        if mesos is None:
            return
        meter, driver = mesos.meter, mesos.driver
        if driver is not None:
            yield _by("gantry_mesos_calls", "calls sent to the Mesos master", "type", driver.calls)
            yield _by("gantry_mesos_events", "events that came from it", "type", driver.events)
            yield _by(
                "gantry_mesos_connection_failures",
                "subscriptions that ended or did not come about, by what was the matter",
                "reason",
                {"connection": 0, "credentials": 0, "redirect": 0, **driver.failures},
            )
            again = CounterMetricFamily("gantry_mesos_reconnects", "subscriptions after the first one")
            again.add_metric([], max(driver.events["SUBSCRIBED"] - 1, 0))
            yield again
        yield _by("gantry_offers", "Mesos offers, by what became of them", "outcome", meter.offers)
        launches = CounterMetricFamily("gantry_launches", "pods sent to agents")
        launches.add_metric([], meter.launches)
        yield launches
        yield _histogram(
            "gantry_placement_seconds",
            "from when a pod could have been launched until that was decided",
            meter.placement,
        )
        yield _histogram(
            "gantry_frame_seconds",
            "of the engine: decide, save, tell Mesos, all that is known at once",
            meter.frames,
        )
        yield _histogram("gantry_save_seconds", "of these, until what was decided is durable", meter.saves)


def _by(name: str, text: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value.lower()], count)
    return family


def _histogram(name: str, text: str, one: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text)
    family.add_metric([], buckets=one.buckets(), sum_value=one.sum)
    return family
