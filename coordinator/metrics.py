"""What the coordinator measures of itself, for Prometheus. No label names a tenant's device, key or token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

Reading = Mapping[tuple[str, str], Mapping[tuple[tuple[str, str], ...], float]]
"""Gauges by name and help; of each, values by labels."""


class Metrics:
    """The counters of one process, and gauges that are read when somebody asks.

    Args:
        read: Reads the gauges from the database; called once a scrape.
    """

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(read))
        self._requests = Counter(
            "edgewise_http_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "edgewise_http_request_seconds",
            "Time to answer, held check-ins included.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._received = Counter(
            "edgewise_http_received_bytes", "Bodies announced.", ["route"], registry=self._registry
        )
        self._check_ins = Counter(
            "edgewise_check_ins", "Check-ins answered, by what they heard.", ["answer"], registry=self._registry
        )
        self._heard: dict[str, Counter] = {}
        self._dropped = Counter(
            "edgewise_attributes_dropped",
            "Attributes that check-ins brought and nobody keeps: not declared, or not as declared.",
            ["why"],
            registry=self._registry,
        )
        self._answered: dict[tuple[str, str, int], Counter] = {}
        self._timed: dict[str, tuple[Histogram, Counter]] = {}

    def request(self, method: str, route: str, status: int, seconds: float, received_bytes: int) -> None:
        """Count one answered request; a route is a template, so that there are few."""
        counter = self._answered.get((method, route, status))
        if counter is None:
            counter = self._answered[method, route, status] = self._requests.labels(method, route, str(status))
        counter.inc()
        timed = self._timed.get(route)
        if timed is None:
            timed = self._timed[route] = self._seconds.labels(route), self._received.labels(route)
        timed[0].observe(seconds)
        timed[1].inc(received_bytes)

    def check_in(self, answer: str) -> None:
        """Count what a check-in heard: `assigned`, or why it waits."""
        counter = self._heard.get(answer)
        if counter is None:
            counter = self._heard[answer] = self._check_ins.labels(answer)
        counter.inc()

    def attributes_dropped(self, undeclared: int, misfits: int) -> None:
        """Count what an app says of its devices though its population declares it otherwise, or not at all."""
        self._dropped.labels("undeclared").inc(undeclared)
        self._dropped.labels("misfit").inc(misfits)

    def text(self) -> bytes:
        """Everything in the text format of Prometheus."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for (name, sentence), values in self._read().items():
            labels = next(([label for label, _value in key] for key in values), [])
            family = GaugeMetricFamily(name, sentence, labels=labels)
            for key, value in values.items():
                family.add_metric([text for _label, text in key], value)
            yield family

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # else registering would read the database
