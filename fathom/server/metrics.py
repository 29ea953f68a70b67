"""What a monitor reads at /metrics, in a registry of its own: two services in one process don't count each other's requests.

No label holds a key, an account or anything else that a client chooses.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fathom.server.accounts import Usage

SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)
GROWING = ("prompt_tokens", "hit_tokens", "output_tokens", "steps", "step_tokens", "preemptions", "drafted", "accepted")
"""Fields of the engine's Stats that only grow; the others are of the moment."""


class Metrics:
    """Counters of one service. engine: gives the engine's Stats when they are read."""

    def __init__(self, engine: Callable[[], Any]) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "fathom"}
        self.requests = Counter("requests", "HTTP requests.", ["route", "status"], **own)
        self.seconds = Histogram("request_seconds", "From the head of a request to the end of its answer.", ["route"], buckets=SECONDS, **own)
        self.first_token = Histogram("first_token_seconds", "From admission to the first token.", buckets=SECONDS, **own)
        self.in_flight = Gauge("answers_in_flight", "Answers admitted and not yet ended.", **own)
        self.tokens = Counter("tokens", "Tokens handed out or taken in.", ["kind"], **own)
        self.registry.register(EngineMetrics(engine))  # type: ignore[arg-type]

    def count(self, usage: Usage) -> None:
        """Adds an ended answer's tokens."""
        for kind in ("hit", "miss", "output", "reasoning"):
            self.tokens.labels(kind=kind).inc(getattr(usage, kind))

    def text(self) -> bytes:
        """The exposition, text format 0.0.4."""
        return generate_latest(self.registry)


class EngineMetrics:
    """The engine's own figures, each read when asked for."""

    def __init__(self, stats: Callable[[], Any]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One metric per field of Stats."""
        stats = self._stats()
        for field in fields(stats):
            family = CounterMetricFamily if field.name in GROWING else GaugeMetricFamily
            yield family(f"fathom_engine_{field.name}", f"Engine: {field.name.replace('_', ' ')}.", value=getattr(stats, field.name))

    def describe(self) -> list[Metric]:
        """Nothing beforehand: names follow from the engine."""
        return []
