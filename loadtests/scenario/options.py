"""What `lorikeet loadtest run` and its sisters are told."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from loadtests.drive.fleet import DriveConfig
from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.store import SUFFIXES
from loadtests.drive.target import Target
from loadtests.drive.tls import Tls
from server.engine.config import COUNT, COUNT_OR_AUTO, check_options, option

ABOVE_ZERO = (1e-3, float("inf"))


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """The server, and how it is driven."""

    target: str = option("", "the server: HOST:PORT, or the http:// address of an OpenAI-compatible one")
    serve: bool = option(False, "start a server with a base and adapters of random weights for this run")
    model: str = option(
        "tiny", "shape of the base that --serve makes", choices=("tiny", "1b", "8b", "1B", "8B")
    )
    quantization: str = option("none", "how --serve holds it: none, nf4 or int8")
    device: str = option("auto", "where --serve runs it")
    threads: int = option(0, "CPU threads of --serve's engine; 0: every core but one", bounds=COUNT_OR_AUTO)
    adapter: str = option(
        "",
        "folder of an adapter, of which variants are uploaded as the workload's; unless told, they are there",
    )
    names: str = option(
        "", "file of adapters that are there, one a line, to stand for the workload's in turn"
    )
    metrics: str = option("", "address of the server's /metrics page, to be watched besides")
    keys: str = option("", "TOML file: tenant = key, sent as `authorization: Bearer`; --serve makes its own")
    ca: str = option("", "PEM of the authority that --target's certificate is from; makes it TLS")
    cert: str = option("", "PEM of the driver's own certificate, where --target asks for one")
    key: str = option("", "PEM of that certificate's key")
    vocab_size: int = option(4096, "prompts of an HTTP target have ids below it", bounds=(16, float("inf")))
    scale: str = option(
        "full", "full; brief: shorter, for a GPU; or small, for a CPU", choices=("full", "brief", "small")
    )
    seed: int = option(0, "of the workload", bounds=(0, float("inf")))
    processes: int = option(1, "of the driver", bounds=COUNT)
    drain: float = option(
        60.0, "seconds to wait for answers after the last request is due", bounds=ABOVE_ZERO
    )
    timeout: float = option(0.0, "deadline of each request in seconds; 0: none", bounds=(0.0, float("inf")))

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        if problems := list(self._problems()):
            raise ValueError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        if self.serve == bool(self.target):
            yield "give --target or --serve, one of them"
        for name in ("names", "keys", "ca", "cert", "key"):
            if (file := getattr(self, name)) and not Path(file).is_file():
                yield f"{name} {file}: there is no such file"
        if self.names and (self.serve or self.adapter):
            yield "names are for adapters that are there: without --serve and --adapter"
        if self.keys and self.serve:
            yield "keys are for a server that is there: --serve makes its own"

        if self.ca and (self.serve or "://" in self.target):
            yield "ca is for a --target HOST:PORT"
        if bool(self.cert) != bool(self.key) or (self.cert and not self.ca):
            yield "cert and key belong together, and to ca"

    def target_at(self, address: str, keys: dict[str, str]) -> Target:
        timeout = self.timeout or None
        if not address.startswith(("http://", "https://")):
            return GrpcTarget(address, timeout=timeout, keys=keys, tls=self._tls())
        # Only for this target: who drives gRPC needs no HTTP client.
        from loadtests.drive.http_target import HttpTarget

        return HttpTarget(address, timeout=timeout, keys=keys, vocab_size=self.vocab_size)

    def _tls(self) -> Tls | None:
        own = (Path(self.cert), Path(self.key)) if self.cert else (None, None)
        return Tls(Path(self.ca), *own) if self.ca else None

    def told_keys(self) -> dict[str, str]:
        return tomllib.loads(Path(self.keys).read_text()) if self.keys else {}

    def drive_config(self, template: Path | None) -> DriveConfig:
        return DriveConfig(processes=self.processes, drain_seconds=self.drain, template=template)


@dataclass(frozen=True, kw_only=True)
class RunOptions(PlaceOptions):
    out: str = option("", "file for the raw results: .jsonl or .parquet")
    json: str = option("", "file for all figures and bars")
    html: str = option("", "file for a page with plots")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.out and Path(self.out).suffix not in SUFFIXES:
            yield f"out {self.out} must end in {' or '.join(SUFFIXES)}"
        if self.out.endswith(".parquet") and find_spec("pyarrow") is None:
            yield "out: Parquet needs pyarrow (pip install 'lorikeet[loadtests]'); .jsonl needs nothing"
        for name in ("out", "json", "html"):
            if (file := getattr(self, name)) and not Path(file).parent.is_dir():
                yield f"{name} {file}: there is no such folder"


@dataclass(frozen=True, kw_only=True)
class AllOptions(PlaceOptions):
    only: str = option("", "scenarios to play, with commas between them; all unless told")
    out: str = option("loadtest-results", "folder for all that is found out, made if it is not there")
    within: float = option(
        0.0, "seconds for everything; what could not end in them is not begun. 0: as long as it takes"
    )
