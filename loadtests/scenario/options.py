"""What `lorikeet loadtest run` and its sisters are told."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from loadtests.drive.fleet import DriveConfig
from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.store import SUFFIXES
from loadtests.drive.target import Target
from server.engine.config import COUNT, check_options, option

ABOVE_ZERO = (1e-3, float("inf"))


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    target: str = option("", "the server: HOST:PORT, or the http:// address of an OpenAI-compatible one")
    serve: bool = option(False, "start a server with a base and adapters of random weights for this run")
    model: str = option("tiny", "shape of the base that --serve makes: tiny, 1b or 8b")
    quantization: str = option("none", "how --serve holds it: none, nf4 or int8")
    device: str = option("auto", "where --serve runs it")
    adapter: str = option(
        "",
        "folder of an adapter, of which variants are uploaded as the workload's; unless told, they are there",
    )
    names: str = option(
        "", "file of adapters that are there, one a line, to stand for the workload's in turn"
    )
    metrics: str = option("", "address of the server's /metrics page, to be watched besides")
    keys: str = option("", "TOML file: tenant = key, sent as `authorization: Bearer`")
    vocab_size: int = option(4096, "prompts of an HTTP target have ids below it", bounds=(16, float("inf")))
    scale: str = option("full", "full, or small for a CPU", choices=("full", "small"))
    seed: int = option(0, "of the workload", bounds=(0, float("inf")))
    processes: int = option(1, "of the driver", bounds=COUNT)
    drain: float = option(
        60.0, "seconds to wait for answers after the last request is due", bounds=ABOVE_ZERO
    )
    timeout: float = option(0.0, "deadline of each request in seconds; 0: none", bounds=(0.0, float("inf")))
    out: str = option("", "file for the raw results: .jsonl or .parquet")
    json: str = option("", "file for all figures and bars")
    html: str = option("", "file for a page with plots")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        problems = []
        if self.serve == bool(self.target):
            problems.append("give --target or --serve, one of them")
        if self.out and Path(self.out).suffix not in SUFFIXES:
            problems.append(f"out {self.out} must end in {' or '.join(SUFFIXES)}")
        for name in ("out", "json", "html"):
            if (file := getattr(self, name)) and not Path(file).parent.is_dir():
                problems.append(f"{name} {file}: there is no such folder")
        for name in ("names", "keys"):
            if (file := getattr(self, name)) and not Path(file).is_file():
                problems.append(f"{name} {file}: there is no such file")
        if self.names and (self.serve or self.adapter):
            problems.append("names are for adapters that are there: without --serve and --adapter")
        if problems:
            raise ValueError("; ".join(problems))

    def target_at(self, address: str) -> Target:
        keys = tomllib.loads(Path(self.keys).read_text()) if self.keys else {}
        timeout = self.timeout or None
        if not address.startswith(("http://", "https://")):
            return GrpcTarget(address, timeout=timeout, keys=keys)
        # Only for this target: who drives gRPC needs no HTTP client.
        from loadtests.drive.http_target import HttpTarget

        return HttpTarget(address, timeout=timeout, keys=keys, vocab_size=self.vocab_size)

    def drive_config(self, template: Path | None) -> DriveConfig:
        return DriveConfig(processes=self.processes, drain_seconds=self.drain, template=template)
