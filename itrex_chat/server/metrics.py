"""What Prometheus reads."""

from collections.abc import Iterator, Sequence

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from itrex_chat.generation.response import Response
from itrex_chat.server.models import Model

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("itrex_requests", "Requests.", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "itrex_request_seconds",
            "From a request to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self._prompt = Counter("itrex_prompt_tokens", "Tokens of prompts.", ("model",), registry=registry)
        self._cached = Counter(
            "itrex_cached_prompt_tokens", "Tokens of prompts that were known.", ("model",), registry=registry
        )
        self._new = Counter("itrex_generated_tokens", "Tokens of answers.", ("model",), registry=registry)
        self._ttft = Histogram(
            "itrex_time_to_first_token_seconds",
            "From a request to the first token of an answer, waiting included.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self._tpot = Histogram(
            "itrex_time_per_token_seconds",
            "Mean of an answer's tokens behind the first.",
            ("model",),
            buckets=TOKEN_SECONDS,
            registry=registry,
        )
        self._rows = Histogram("itrex_pass_rows", "Tokens in a pass.", ("model",), buckets=ROWS, registry=registry)

    def watch(self, models: Sequence[Model]) -> None:
        self._registry.register(_Now(models))

    def passed(self, model: str, rows: int) -> None:
        self._rows.labels(model).observe(rows)

    def answered(self, model: str, responses: Sequence[Response], usage: dict) -> None:
        self._prompt.labels(model).inc(usage["prompt_tokens"])
        self._cached.labels(model).inc(usage["prompt_tokens_details"]["cached_tokens"])
        self._new.labels(model).inc(usage["completion_tokens"])
        for response in responses:
            self._ttft.labels(model).observe(response.ttft)
            if response.tpot is not None:
                self._tpot.labels(model).observe(response.tpot)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Now(Collector):
    """What is so when it is read."""

    def __init__(self, models: Sequence[Model]):
        self._models, self._process = models, psutil.Process()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        memory = GaugeMetricFamily("itrex_memory_bytes", "Memory of the server's process.")
        memory.add_metric([], self._process.memory_info().rss)
        yield memory
        found = {
            name: GaugeMetricFamily(f"itrex_{name}", text, labels=("model",))
            for name, text in (
                ("model_loaded", "Whether a model is loaded."),
                ("requests_waiting", "Answers that wait for a place."),
                ("requests_running", "Answers that are being made."),
                ("cache_pages", "Pages of keys and values."),
                ("cache_pages_used", "Those of them that are used, also by what is kept for prompts that begin alike."),
            )
        }
        for model in self._models:
            loaded = model.loaded
            found["model_loaded"].add_metric([model.name], loaded)
            if loaded:
                scheduler = model.driver.scheduler
                found["requests_waiting"].add_metric([model.name], scheduler.waiting)
                found["requests_running"].add_metric([model.name], scheduler.going)
                found["cache_pages"].add_metric([model.name], scheduler.pages.count)
                found["cache_pages_used"].add_metric([model.name], scheduler.pages.count - scheduler.pages.free)
        yield from found.values()
