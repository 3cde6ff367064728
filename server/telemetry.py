"""What a whole server tells whoever watches it: metrics with their scrape, and spans."""

from server.config import ServerConfig
from server.engine_metrics import EngineCollector
from server.fronts.sums import Sums
from server.link import EngineLink
from server.metrics import Metrics
from server.scrape import Scrape
from server.tenant_metrics import TenantMetrics
from server.trace import open_spans


class Telemetry:
    def __init__(self, config: ServerConfig, link: EngineLink) -> None:
        self.spans = open_spans(config.otlp_endpoint)
        tenants = TenantMetrics(config.metrics_tenants)
        self.metrics = Metrics(tenants)
        self.metrics.registry.register(tenants)
        self.metrics.registry.register(EngineCollector(link, config.vllm_metrics))
        # With what other fronts count.
        self.sums = Sums(self.metrics.registry)
        self._address = config.metrics_host or config.host, config.metrics_port
        self._scrape: Scrape | None = None

    @property
    def port(self) -> int:
        """Of /metrics; -1 where it is not served."""
        return -1 if self._scrape is None else self._scrape.port

    def start(self) -> None:
        """Raises OSError for a taken port."""
        host, port = self._address
        if port >= 0:
            self._scrape = Scrape(host, port, self.sums.registry)

    def close(self) -> None:
        """Sends what spans are left; may take two seconds."""
        self.spans.close()
        if self._scrape is not None:
            self._scrape.close()
