"""A server of one's own: a base of random weights, and for each scenario its adapters, keys and tenants."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from adapters.durable import replace_file
from loadtests.random_house import write_adapter, write_house
from loadtests.scenario.options import PlaceOptions
from loadtests.scenario.place import Place
from loadtests.scenario.spec import House, Scenario
from lorikeet.client import Client
from lorikeet.local import Serving, serving
from server.identity.keys import KeyFile
from server.identity.scopes import TENANT_SCOPES

# Asks whether the server is ready.
WATCHMAN = "watchman"


def write_own_base(options: PlaceOptions, folder: Path) -> Path:
    """In 4 bits where it is served so: a third of the bytes, and no time to quantize it at each start."""
    return write_house(options.model, folder, "nf4" if options.quantization == "nf4" else "none")


class Books:
    """Who may call the server and what they may use, in two files that it reads again when they change."""

    def __init__(self, folder: Path) -> None:
        self.keys_file, self.tenants_file = folder / "keys.json", folder / "tenants.json"
        self._tenants: dict[str, dict[str, float]] = {}
        self.keys: dict[str, str] = {}
        self.admit(WATCHMAN, {})

    def admit(self, tenant: str, table: dict[str, float]) -> None:
        """With a key of its own, and these limits and weight from now on."""
        self._tenants[tenant] = table
        replace_file(self.tenants_file, json.dumps({"tenants": self._tenants}).encode())
        if tenant not in self.keys:
            self.keys[tenant] = KeyFile(self.keys_file).create(tenant, TENANT_SCOPES)[1].text


class OwnServer:
    def __init__(
        self, options: PlaceOptions, serving: Serving, folder: Path, books: Books, page: str
    ) -> None:
        self._options = options
        self._serving = serving
        self._folder = folder
        self._books = books
        self._page = page
        self._brought: dict[tuple[str, str], Path] = {}
        self._is_fresh = True

    def place(self, scenario: Scenario) -> Place:
        """The server with what this scenario needs."""
        for tenant in scenario.workload.tenants:
            limits = scenario.house.limits.get(tenant.name, {})
            self._books.admit(tenant.name, {"weight": tenant.weight, **limits})
        target = self._options.target_at(self._serving.target, dict(self._books.keys))
        template, is_fresh = self._template(scenario.house), self._is_fresh
        self._is_fresh = False
        return Place(target, template, self._page, self._serving, self._brought, is_fresh)

    def _template(self, house: House) -> Path:
        folder = self._folder / "-".join(["adapter", str(house.rank), *house.targets])
        if not folder.is_dir():
            write_adapter(self._options.model, house.rank, folder, only=house.targets or None)
        return folder


@contextmanager
def own_server(
    options: PlaceOptions, base: Path, folder: Path, flags: Mapping[str, str]
) -> Iterator[OwnServer]:
    """Its store, keys and log are in the folder."""
    books, port = Books(folder), free_port()
    words = ["--metrics-port", str(port), "--quantization", options.quantization]
    words += ["--device", options.device, "--threads", str(options.threads)]
    words += ["--keys", str(books.keys_file), "--tenants", str(books.tenants_file)]
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", value]
    with serving(base, folder, words) as server:
        with Client(server.target, api_key=books.keys[WATCHMAN]) as client:
            server.wait_ready(client)
        yield OwnServer(options, server, folder, books, f"http://127.0.0.1:{port}/metrics")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
