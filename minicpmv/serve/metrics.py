"""What the server counts, under vLLM's names, so that its dashboards show this server too.

Two sources: requests are counted here as their events pass; what the engines know themselves (who
waits, what is cached) is read from them when somebody looks. Every label has one of few values: a
client cannot make new ones, which would fill the memory of the server and of Prometheus.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..errors import ArgumentError
from .jobs import Event, Finished, Piece, Started
from .metrics_names import BUCKETS, COUNTERS, FIELDS, FINISH_REASONS, HISTOGRAMS

Stats = Mapping[str, Mapping[str, Mapping[str, int]]]

CLIENT_GONE = "client_gone"
_OTHER = "other"
_MOST_CODES = 64  # of errors; there are about twenty


class Metrics:
    """Counters, gauges and histograms of one application.

    Args:
        prefix: what every name begins with, before a colon.
        models: names that are served; each is there with zeros from the beginning.
        stats: as `Backend.stats`.

    Raises:
        ArgumentError: the prefix is no name.
    """

    def __init__(
        self,
        prefix: str = "minicpmv",
        models: Sequence[str] = (),
        stats: Callable[[], Stats] | None = None,
    ):
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", prefix):
            raise ArgumentError(
                f"--metrics-prefix is {prefix!r}; expected letters, digits and underscores, as in "
                "minicpmv or vllm."
            )
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._codes: set[str] = set()
        self._counters = {
            name: Counter(f"{prefix}:{name}", text, labels, registry=self.registry)
            for name, (labels, text) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(
                f"{prefix}:{name}",
                text,
                ("model_name",),
                buckets=BUCKETS[kind],
                registry=self.registry,
            )
            for name, (kind, text) in HISTOGRAMS.items()
        }
        self._engines = _Engines(prefix)
        self.registry.register(self._engines)
        self.watch(models, stats)

    def watch(self, models: Sequence[str], stats: Callable[[], Stats] | None = None) -> None:
        """Show these models with zeros until something happens, and read their engines' counters.

        Args:
            stats: as `Backend.stats`; None keeps the former one.
        """
        for model in models:
            for name in ("prompt_tokens", "generation_tokens"):
                self._counters[name].labels(model)
            for reason in FINISH_REASONS:
                self._counters["request_success"].labels(model, reason)
            for histogram in self._histograms.values():
                histogram.labels(model)
        self._engines.models = list(dict.fromkeys([*self._engines.models, *models]))
        if stats is not None:
            self._engines.stats = stats

    def request_started(self, model: str, begin: float | None = None) -> "RequestRecord":
        """A request to a model that is served; tell the record what becomes of it.

        Args:
            begin: when it arrived, on the clock of `time.perf_counter`; now by default.
        """
        self._engines.models = list(dict.fromkeys([*self._engines.models, model]))
        self._engines.in_flight[model] = self._engines.in_flight.get(model, 0) + 1
        return RequestRecord(self, model, time.perf_counter() if begin is None else begin)

    def request_error(self, code: str) -> None:
        """A request was refused or failed before it was given to a model.

        Args:
            code: of `ApiError`, or `CLIENT_GONE`.
        """
        if code not in self._codes and len(self._codes) >= _MOST_CODES:
            code = _OTHER
        self._codes.add(code)
        self._counters["request_errors"].labels(code).inc()

    def parameter_ignored(self, name: str) -> None:
        """A field of a request was dropped, for the server is lenient. Names that no protocol has
        are counted as "other".
        """
        self._counters["ignored_parameters"].labels(name if name in FIELDS else _OTHER).inc()

    def render(self) -> tuple[bytes, str]:
        """The page of `/metrics` and its content type.

        Always the text format: for scrapers before Prometheus 3, the OpenMetrics encoder writes the
        colon of a sample's name as an underscore, and no dashboard would find it.
        """
        return generate_latest(_WithoutTimes(self.registry)), CONTENT_TYPE_PLAIN_0_0_4

    # For records.

    def count(self, name: str, model: str, amount: float, *labels: str) -> None:
        self._counters[name].labels(model, *labels).inc(amount)

    def observe(self, name: str, model: str, value: float) -> None:
        self._histograms[name].labels(model).observe(value)

    def request_ended(self, model: str) -> None:
        self._engines.in_flight[model] -= 1


class RequestRecord:
    """What becomes of one request, from its arrival to its end. Belongs to one task."""

    def __init__(self, metrics: Metrics, model: str, begin: float):
        self._metrics = metrics
        self._model = model
        self._begin = begin
        self._newest: dict[int, float] = {}  # by answer: when its newest piece came
        self._counted: dict[int, int] = {}
        self._is_read = False
        self._is_over = False

    def event(self, event: Event) -> None:
        """Something came from the backend."""
        now = time.perf_counter()
        if isinstance(event, Piece):
            if not self._newest:
                self._observe("time_to_first_token_seconds", now - self._begin)
            if event.index in self._newest:
                self._observe("inter_token_latency_seconds", now - self._newest[event.index])
            self._newest[event.index] = now
            self._count(event.index, event.num_tokens)
        elif isinstance(event, Finished):
            self._finish(event, now)
        else:
            assert isinstance(event, Started)

    def _finish(self, event: Finished, now: float) -> None:
        answer, model = event.answer, self._model
        if not self._newest:  # its text is empty
            self._observe("time_to_first_token_seconds", now - self._begin)
            self._newest[event.index] = now
        if not self._is_read:
            self._is_read = True
            self._metrics.count("prompt_tokens", model, answer.num_input_tokens)
            self._observe("request_prompt_tokens", answer.num_input_tokens)
            self._observe("request_queue_time_seconds", answer.queue_seconds)
            prefill = max(answer.prompt_seconds - answer.queue_seconds, 0)
            self._observe("request_prefill_time_seconds", prefill)
        self._count(event.index, answer.num_output_tokens)
        self._metrics.count("request_success", model, 1, answer.finish_reason)
        self._observe("request_generation_tokens", answer.num_output_tokens)
        self._observe("request_decode_time_seconds", answer.decode_seconds)
        if answer.num_output_tokens > 1:
            per_token = answer.decode_seconds / (answer.num_output_tokens - 1)
            self._observe("request_time_per_output_token_seconds", per_token)
        self._observe("e2e_request_latency_seconds", now - self._begin)

    def _count(self, index: int, number: int) -> None:
        """Tokens of an answer so far, as they come: also of one that never becomes complete."""
        more = number - self._counted.get(index, 0)
        if more > 0:
            self._counted[index] = number
            self._metrics.count("generation_tokens", self._model, more)

    def _observe(self, name: str, value: float) -> None:
        self._metrics.observe(name, self._model, value)

    def end(self, error: str | None = None) -> None:
        """Nothing comes any more; may be called again, without effect.

        Args:
            error: the code of the `ApiError` that it ended with, or `CLIENT_GONE`.
        """
        if self._is_over:
            return
        self._is_over = True
        self._metrics.request_ended(self._model)
        if error is not None:
            self._metrics.request_error(error)


class _Engines(Collector):
    """What the backends say of themselves when somebody looks."""

    def __init__(self, prefix: str):
        self.models: list[str] = []
        self.in_flight: dict[str, int] = {}
        self.stats: Callable[[], Stats] = dict
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        stats = self.stats()
        gauges = {
            name: GaugeMetricFamily(f"{self._prefix}:{name}", text, labels=["model_name"])
            for name, text in _GAUGES.items()
        }
        counters = {
            name: CounterMetricFamily(f"{self._prefix}:{name}", text, labels=["model_name"])
            for name, (_, _, text) in _ENGINE_COUNTERS.items()
        }
        for model in dict.fromkeys([*self.models, *stats]):
            groups = stats.get(model, {})
            # Where transformers' `generate` answers, nobody waits: every request has its thread.
            requests = groups.get("requests") or {"running": self.in_flight.get(model, 0)}
            prefixes = groups.get("prefixes", {})
            most = prefixes.get("max_bytes", 0)
            values = {
                "num_requests_running": requests.get("running", 0),
                "num_requests_waiting": requests.get("waiting", 0),
                "kv_cache_usage_perc": prefixes.get("held_bytes", 0) / most if most else 0.0,
            }
            for name, value in values.items():
                gauges[name].add_metric([model], value)
            for name, (group, keys, _) in _ENGINE_COUNTERS.items():
                found = groups.get(group, {})
                counters[name].add_metric([model], sum(found.get(key, 0) for key in keys))
        yield from gauges.values()
        yield from counters.values()


_GAUGES = {
    "num_requests_running": "Requests that are being answered.",
    "num_requests_waiting": "Requests that wait for their turn.",
    "kv_cache_usage_perc": "Share of the memory for keys and values that requests hold; 1 is all.",
}
# By name: the group of `Engine.stats` and the counters of it that are added up.
_ENGINE_COUNTERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "num_preemptions": (
        "requests",
        ("preempted",),
        "Requests that lost their memory; the own engine sets it aside before, so there are none.",
    ),
    "prefix_cache_queries": ("prefixes", ("prompt_tokens",), "Tokens of prompts looked up."),
    "prefix_cache_hits": (
        "prefixes",
        ("known_tokens",),
        "Tokens of prompts whose keys and values were there.",
    ),
    "mm_cache_queries": ("features", ("hits", "misses"), "Pictures whose features were looked up."),
    "mm_cache_hits": ("features", ("hits",), "Pictures whose features were there."),
}


class _WithoutTimes(CollectorRegistry):
    """A registry without the times at which its counters were made: every series twice."""

    def __init__(self, registry: CollectorRegistry):
        super().__init__()
        self._all = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._all.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family
