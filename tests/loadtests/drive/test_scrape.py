"""The server's own gauges, read beside a load."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from loadtests.drive.scrape import Scraper

PAGE = b"""# TYPE lorikeet:adapter_loads counter
lorikeet:adapter_loads_total{tier="host"} 2.0
lorikeet:adapter_loads_total{tier="device"} 3.0
# TYPE lorikeet:lora_requests_info gauge
lorikeet:lora_requests_info{running_lora_adapters="a,b"} 1.0
"""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_a_load_that_is_shorter_than_the_interval_is_looked_at_once(url: str) -> None:
    with Scraper(url, every=3600.0) as scraper:
        assert scraper.samples() == []
    (sample,) = scraper.samples()
    assert (sample.values, sample.resident) == ({"adapter_loads_total": 5.0}, ("a", "b"))


def test_a_server_that_is_gone_is_a_miss(url: str) -> None:
    with Scraper(url.replace("127.0.0.1", "127.0.0.2"), every=3600.0) as scraper:
        pass
    assert (scraper.samples(), scraper.misses) == ([], 1)
