"""Counter, Gauge, Histogram, Reading: what a process counts of itself, for /metrics and for whoever wants a number of it.

prometheus_client holds the values. They are made at first use and not at import, so that gunicorn's processes can agree
before on a directory in which they count together (`count_together`). An increment costs about a microsecond, and three
in that directory.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import prometheus_client
from prometheus_client import CollectorRegistry, exposition, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics import exposition as openmetrics

# Whose /metrics tells it.
Where = Literal["web", "worker", "both"]
PREFIX = "umekomi_"
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own


_making = threading.Lock()


@dataclass(slots=True, eq=False)
class Metric:
    """A name, its meaning and its labels; values of labels are given by position, and are few: never what a client chose."""

    name: str  # without the prefix; a counter's ends in _total
    help: str
    where: Where
    labels: tuple[str, ...] = ()
    buckets: Sequence[float] = ()

    @property
    def full_name(self) -> str:
        """As Prometheus has it."""
        return PREFIX + self.name

    @property
    def kind(self) -> str:
        """counter, gauge or histogram."""
        return type(self).__name__.lower()


@dataclass(slots=True, eq=False)
class _Kept(Metric, ABC):
    """One whose values this process keeps."""

    _made: MetricWrapperBase | None = field(default=None, init=False)
    _children: dict[tuple[str, ...], Any] = field(default_factory=dict, init=False)

    def made(self) -> MetricWrapperBase:
        """prometheus_client's own."""
        if self._made is None:
            with _making:
                if self._made is None:
                    self._made = self._make()
        return self._made

    @abstractmethod
    def _make(self) -> MetricWrapperBase: ...

    def _child(self, values: tuple[str, ...]) -> Any:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self.made().labels(*values) if values else self.made()
        return child


class _Single(_Kept):
    """A figure, and not a distribution."""

    __slots__ = ()

    def inc(self, amount: float, *values: str) -> None:
        """So many more; of a gauge also fewer."""
        self._child(values).inc(amount)

    def value(self, *values: str) -> float:
        """How it stands in this process."""
        return float(self._child(values)._value.get())


class Counter(_Single):
    """Only ever grows, from 0 at the start of the process."""

    __slots__ = ()

    def _make(self) -> MetricWrapperBase:
        return prometheus_client.Counter(self.full_name, self.help, self.labels, registry=None)


class Gauge(_Single):
    """Goes up and down; of several processes the sum."""

    __slots__ = ()

    def _make(self) -> MetricWrapperBase:
        return prometheus_client.Gauge(self.full_name, self.help, self.labels, registry=None, multiprocess_mode="livesum")


class Histogram(_Kept):
    """How many values were at most so large, by bucket; and their sum."""

    __slots__ = ()

    def observe(self, amount: float, *values: str) -> None:
        """One more value."""
        self._child(values).observe(amount)

    def sum(self, *values: str) -> float:
        """Of what this process observed."""
        return float(self._child(values)._sum.get())

    def _make(self) -> MetricWrapperBase:
        return prometheus_client.Histogram(self.full_name, self.help, self.labels, buckets=self.buckets, registry=None)


class Reading(Metric):
    """A gauge of which nobody keeps the value: it is looked up when somebody asks."""

    __slots__ = ()

    @property
    def kind(self) -> str:
        return "gauge"

    def family(self) -> GaugeMetricFamily:
        """To be filled with what was looked up."""
        return GaugeMetricFamily(self.full_name, self.help, labels=self.labels)


def told(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The body and content type of an answer to a scraper that accepts this."""
    # Not prometheus_client's own choice: it trusts the versions that a client names.
    if "application/openmetrics-text" in accept:
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_PLAIN_0_0_4


def count_together(directory: str) -> None:
    """Have this process and those it forks keep their values in a directory, so that each can tell the sum of all."""
    os.environ[_DIRECTORY] = directory
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def counts_together() -> str | None:
    """The directory of `count_together`, if it was called."""
    return os.environ.get(_DIRECTORY) if values.ValueClass is not values.MutexValue else None


def forget_process(pid: int) -> None:
    """A process that counted together with us died: how its gauges stood is past; what it counted was."""
    from prometheus_client.multiprocess import mark_process_dead

    if counts_together() is not None:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def registry_of(metrics: Sequence[Metric]) -> CollectorRegistry:
    """A registry that tells these metrics, of all processes that count together."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which hardly anybody reads
    registry = CollectorRegistry()
    directory = counts_together()
    if directory is None:
        prometheus_client.ProcessCollector(registry=registry)
    for metric in metrics:
        if not isinstance(metric, _Kept):
            continue
        made = metric.made()  # tells its 0 from now on
        if directory is None:
            registry.register(made)
    if directory is not None:
        from prometheus_client.multiprocess import MultiProcessCollector

        MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
    return registry
