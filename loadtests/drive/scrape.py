"""The server's own gauges beside the load: a look at its metrics page every now and then."""

import threading
import time
import urllib.request
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from loadtests.drive.records import MetricSample

# By their names without the prefix: ours and vLLM's are both read.
WANTED = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "adapters_resident",
    "adapters_active",
    "adapters_awaited",
    "adapter_loads_total",
    "adapter_evictions_total",
)
RESIDENT = "lora_requests_info"


def read_page(text: str, at: float) -> MetricSample:
    """What is wanted of a page in the Prometheus format; of values with labels, the sum."""
    values: dict[str, float] = {}
    resident: tuple[str, ...] = ()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.partition(":")[2]
            if name in WANTED:
                values[name] = values.get(name, 0.0) + sample.value
            elif name == RESIDENT:
                resident = tuple(filter(None, sample.labels.get("running_lora_adapters", "").split(",")))
    return MetricSample(at, values, resident)


class Scraper:
    """`with Scraper(url, every) as scraper`: samples from the first look to one at the end."""

    def __init__(self, url: str, every: float = 0.5) -> None:
        self._url = url
        self._every = every
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._looks: list[MetricSample] = []
        self.misses = 0

    def begin(self, start: float) -> None:
        """The run's start on the monotonic clock."""
        self._start = start

    def samples(self) -> list[MetricSample]:
        """Times are seconds after the run's start."""
        return [MetricSample(s.at - self._start, s.values, s.resident) for s in self._looks]

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._look()
        # A server that was too busy to be looked at now has time.
        self._look()

    def _look(self) -> None:
        at = time.monotonic()
        try:
            with urllib.request.urlopen(self._url, timeout=5) as page:
                self._looks.append(read_page(page.read().decode(), at))
        except (OSError, ValueError):
            # A server under load, or one that is being killed, may miss a look; the load goes on.
            self.misses += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
