"""/metrics over HTTP, on a thread of its own so that a scrape never waits for the event loop."""

from prometheus_client import CollectorRegistry, start_http_server


class Scrape:
    """The HTTP server of one registry."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._server, self._thread = start_http_server(port, host, registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
