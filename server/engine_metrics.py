"""The engine's gauges, read from its newest statistics whenever somebody scrapes."""

import time
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.engine.messages import Ready, Stats
from server.link import EngineLink
from server.places import Places


class EngineCollector(Collector):
    """Prometheus families made from what the link knows; none while it knows nothing."""

    def __init__(self, link: EngineLink, vllm_names: bool) -> None:
        self._link = link
        self._vllm_names = vllm_names

    def describe(self) -> Iterable[Metric]:
        # Names are known only once the engine spoke; the registry need not compare them beforehand.
        return ()

    def collect(self) -> Iterator[Metric]:
        ready, stats, places = self._link.ready, self._link.stats, self._link.places
        yield _gauge("lorikeet:engine_up", "Whether the engine takes requests", float(ready is not None))
        if ready is not None:
            yield _gauge("lorikeet:engine_load_seconds", "Loading the base", ready.load_seconds)
        if stats is None:
            return
        yield from _load("lorikeet", stats, places)
        yield from _own(stats, places)
        if self._vllm_names:
            yield from _load("vllm", stats, places)
            if ready is not None:
                yield _cache_config(ready)


def _load(prefix: str, stats: Stats, places: Places) -> Iterator[Metric]:
    """What routers decide by, in the words of Kubernetes' inference gateway."""
    yield _gauge(f"{prefix}:num_requests_waiting", "Sequences not yet scheduled", stats.waiting)
    yield _gauge(f"{prefix}:num_requests_running", "Sequences in the batch", stats.running)
    used = stats.blocks_used / max(stats.blocks_total, 1)
    yield _gauge(f"{prefix}:kv_cache_usage_perc", "Part of the KV cache in use, 0 to 1", used)
    yield _lora_info(prefix, stats, places)


def _lora_info(prefix: str, stats: Stats, places: Places) -> Metric:
    """Running means resident, as the gateway's protocol defines it: ready to serve without a load."""
    labels = ["max_lora", "running_lora_adapters", "waiting_lora_adapters"]
    family = GaugeMetricFamily(
        f"{prefix}:lora_requests_info", "Adapters; the value is the time", labels=labels
    )
    resident, awaited = ",".join(sorted(places.resident)), ",".join(sorted(places.awaited))
    family.add_metric([str(stats.slots_total), resident, awaited], time.time())
    return family


def _own(stats: Stats, places: Places) -> Iterator[Metric]:
    yield _gauge("lorikeet:adapters_resident", "Adapters on the device", len(places.resident))
    yield _gauge("lorikeet:adapters_active", "Adapters that running sequences hold", stats.active)
    yield _gauge("lorikeet:adapters_awaited", "Adapters that sequences wait for", len(places.awaited))
    yield _gauge("lorikeet:adapter_memory_bytes", "Device memory for adapters", stats.adapter_bytes)
    yield _gauge("lorikeet:adapter_memory_free_bytes", "Of it, not in use", stats.adapter_bytes_free)
    yield _counter(
        "lorikeet:device_wait_seconds", "The engine waited for the device", stats.device_wait_seconds
    )
    yield _counter("lorikeet:steps", "Forward passes", stats.steps)
    yield _counter("lorikeet:tokens_computed", "Tokens run through the model", stats.tokens_computed)
    yield _counter("lorikeet:preemptions", "Sequences that gave their blocks back", stats.preemptions)
    yield _counter("lorikeet:prefix_cache_queries", "Prompt tokens looked up", stats.prefix_queried_tokens)
    yield _counter("lorikeet:prefix_cache_hits", "Prompt tokens found", stats.prefix_hit_tokens)
    yield _counter("lorikeet:adapter_loads", "Adapters brought to the device", stats.adapter_loads)
    yield _counter("lorikeet:adapter_load_seconds", "Time those loads took", stats.adapter_load_seconds)
    yield _counter("lorikeet:adapter_evictions", "Adapters put off the device", stats.adapter_evictions)


def _cache_config(ready: Ready) -> Metric:
    labels = ["block_size", "num_gpu_blocks"]
    family = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's shape", labels=labels)
    family.add_metric([str(ready.block_size), str(ready.num_blocks)], 1)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
