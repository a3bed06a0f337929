"""What a service counts and times, for Prometheus."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.backends.base import ExpertCounts
from pointsman.bundle import Architecture
from pointsman.serving.scheduler import Scheduler

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STEP_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The numbers of one service process, in a registry of its own."""

    def __init__(self) -> None:
        # When each series began: as many lines again. The setting is of the process.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "pointsman_requests",
            "Requests by route and outcome (status, or gone).",
            ("route", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "pointsman_request_seconds",
            "Seconds from a request to its end.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge("pointsman_requests_in_flight", "Requests that are not answered.", registry=registry)
        self._first_token = Histogram(
            "pointsman_first_token_seconds", "Seconds to a stream's first token.", buckets=_SECONDS, registry=registry
        )
        self._waiting = Gauge("pointsman_waiting", "Texts that wait for the model.", ("model",), registry=registry)
        model = ("model",)
        self._cache_bytes = Gauge(
            "pointsman_cache_bytes",
            "Bytes of host memory held for what is encoded and cached.",
            model,
            registry=registry,
        )
        self._waited = Histogram(
            "pointsman_wait_seconds",
            "Seconds that a text waited for the model.",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Histogram(
            "pointsman_step_rows", "Rows of a decoding step.", model, buckets=_ROWS, registry=registry
        )
        self._step = Histogram(
            "pointsman_step_seconds",
            "Seconds of a decoding step, which gives each row a token.",
            model,
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self._tokens_in = Counter("pointsman_tokens_in", "Tokens that were encoded.", model, registry=registry)
        self._tokens_out = Counter("pointsman_tokens_out", "Tokens that were generated.", model, registry=registry)
        self._experts = _Experts()
        registry.register(self._experts)

    def watch_experts(self, model: str, architecture: Architecture, counts: ExpertCounts) -> None:
        """Show how many tokens experts were sent, and how many of these were dropped."""
        self._experts.watch(model, architecture, counts)

    def watch(self, model: str, scheduler: Scheduler) -> None:
        """Show how many texts wait at a scheduler, and what its caches hold, whenever the numbers are asked for."""
        self._waiting.labels(model).set_function(lambda: scheduler.waiting)
        self._cache_bytes.labels(model).set_function(lambda: scheduler.cache_bytes)

    def observer(self, model: str) -> "ModelMetrics":
        """What a model's scheduler reports to."""
        return ModelMetrics(
            self._waited.labels(model),
            self._rows.labels(model),
            self._step.labels(model),
            self._tokens_in.labels(model),
            self._tokens_out.labels(model),
        )

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request while it runs."""
        with self._in_flight.track_inprogress():
            yield

    def answered(self, route: str, outcome: str, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, outcome).inc()
        self._seconds.labels(route).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Count the time to a stream's first token."""
        self._first_token.observe(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Experts(Collector):
    """Counts of all models that are kept elsewhere, as Prometheus' client asks for them."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[Architecture, ExpertCounts]] = {}

    def watch(self, model: str, architecture: Architecture, counts: ExpertCounts) -> None:
        self._models[model] = architecture, counts

    def collect(self) -> Iterator[Metric]:
        """The counts as they are now; nothing where no model has any."""
        if not self._models:
            return
        labels = ("model", "stack", "block", "expert")
        sent = CounterMetricFamily("pointsman_expert_tokens", "Tokens that an expert was sent.", labels=labels)
        dropped = CounterMetricFamily(
            "pointsman_dropped_tokens", "Tokens that an expert had no room for.", labels=labels
        )
        for model, (architecture, counts) in self._models.items():
            encoder, decoder = architecture.encoder, architecture.decoder
            _add(sent, (model, "encoder"), encoder.sparse_layers, counts.encoder)
            _add(sent, (model, "decoder"), decoder.sparse_layers, counts.decoder)
            _add(dropped, (model, "encoder"), encoder.sparse_layers, counts.dropped)
        yield from (sent, dropped)


def _add(
    family: CounterMetricFamily, labels: tuple[str, str], blocks: Sequence[int], counts: NDArray[np.int64]
) -> None:
    for block, of_block in zip(blocks, counts.tolist(), strict=True):
        for expert, count in enumerate(of_block):
            family.add_metric((*labels, str(block), str(expert)), count)


class ModelMetrics:
    """A scheduler's observer."""

    def __init__(
        self, waited: Histogram, rows: Histogram, step: Histogram, tokens_in: Counter, tokens_out: Counter
    ) -> None:
        self._waited, self._rows, self._step = waited, rows, step
        self._tokens_in, self._tokens_out = tokens_in, tokens_out

    def waited(self, seconds: float) -> None:
        """A job begins."""
        self._waited.observe(seconds)

    def encoded(self, tokens: int, seconds: float) -> None:  # noqa: ARG002 - the observer's interface
        """Inputs have been encoded."""
        self._tokens_in.inc(tokens)

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """A step was done."""
        self._rows.observe(rows)
        self._step.observe(seconds)
        self._tokens_out.inc(tokens)
