"""`lorikeet loadtest thrash`: servers of random weights, one after another, and what their clients saw."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from loadtests.drive.grpc_target import GrpcTarget
from loadtests.figures import finite, print_table
from loadtests.random_house import write_adapter, write_house
from loadtests.thrash.config import ZIPF_RANK, ZIPF_TARGETS, ThrashConfig
from loadtests.thrash.goals import judge
from loadtests.thrash.storms import Storm, play_storms
from loadtests.thrash.uploads import UploadFigures, play_uploads
from loadtests.thrash.zipf import ZipfFigures, play_zipf
from lorikeet import Client
from lorikeet.local import serving

# Of host memory for the adapters of the zipf part, over their bytes: what cutting it up leaves unused.
HOST_MARGIN = 1.05


def run(config: ThrashConfig) -> int:
    """0 if every goal is met."""
    with tempfile.TemporaryDirectory(prefix="lorikeet-thrash-") as temporary:
        root = Path(temporary)
        write_house(config.model, root)
        storms, uploads = _storms(config, root)
        # Each part as soon as it is there: the next takes minutes.
        _show_storms(config, storms, uploads)
        zipf = _zipf(config, root) if config.all else None
    if zipf is not None:
        _show_zipf(zipf)
    goals = judge(storms, uploads, zipf) if config.has_goals else []
    if goals:
        rows = [(g.figure, f"{g.value:.2f}", str(g), "pass" if g.is_met else "FAIL") for g in goals]
        print_table("Goals", ("figure", "value", "goal", ""), rows)
    if config.json:
        figures = {
            "device": _device(),
            "storms": [asdict(storm) for storm in storms],
            "uploads": None if uploads is None else asdict(uploads),
            "zipf": None if zipf is None else asdict(zipf),
            "goals": [asdict(goal) | {"is_met": goal.is_met} for goal in goals],
        }
        Path(config.json).write_text(json.dumps(finite(figures), indent=2) + "\n")
    return 0 if all(goal.is_met for goal in goals) else 1


def _storms(config: ThrashConfig, root: Path) -> tuple[list[Storm], UploadFigures | None]:
    flags = ["--adapter-memory", str(config.room * config.adapter_bytes(config.rank))]
    flags += ["--adapter-slots", str(config.room), "--host-cache-bytes", str(config.host_cache_bytes)]
    flags += ["--max-rank", str(max(64, config.rank)), "--stream-interval", "0"]
    template = write_adapter(config.model, config.rank, root / "adapter")
    with served(config, root, flags) as target:
        storms = play_storms(config, target, template)
        return storms, play_uploads(config, target, template) if config.all else None


def _zipf(config: ThrashConfig, root: Path) -> ZipfFigures:
    size = config.adapter_bytes(ZIPF_RANK, ZIPF_TARGETS)
    flags = ["--adapter-memory", str(config.zipf_slots * size), "--adapter-slots", str(config.zipf_slots)]
    flags += ["--host-cache-bytes", str(int(config.zipf_adapters * size * HOST_MARGIN) + (1 << 20))]
    # All requests are there at once, and wait.
    flags += ["--queue-limit", str(2 * config.zipf_requests + 64), "--queue-seconds", "300"]
    template = write_adapter(config.model, ZIPF_RANK, root / "small-adapter", only=ZIPF_TARGETS)
    with served(config, root, flags) as target:
        return play_zipf(config, target, template)


@contextmanager
def served(config: ThrashConfig, root: Path, flags: Sequence[str]) -> Iterator[GrpcTarget]:
    """A server whose adapters go with it."""
    with (
        tempfile.TemporaryDirectory(prefix="server-", dir=root) as folder,
        serving(root / "base", Path(folder), [*config.flags, *flags]) as server,
    ):
        with Client(server.target) as client:
            server.wait_ready(client)
        yield GrpcTarget(server.target)


def _show_storms(config: ThrashConfig, storms: Sequence[Storm], uploads: UploadFigures | None) -> None:
    beside = [] if uploads is None else [(f"{uploads.beside.adapters}, beside uploads", uploads.beside)]
    print_table(
        f"{_device()}, {config.model} shape, {config.quantization}, rank {config.rank}, room for"
        f" {config.room}; {config.rate:g} requests a second, {config.prompt} tokens in, {config.answer} out",
        ("adapters", "requests", "first token p50 ms", "p99 ms", "inter-token p99 ms", "tokens/s"),
        [_row(name, storm) for name, storm in [*((str(s.adapters), s) for s in storms), *beside]],
    )
    if uploads is not None:
        print_table(
            f"Uploads of {uploads.megabytes:.0f} MB over loopback",
            ("alone, to the first token s", "longest s", f"p50 of {uploads.uploads} beside answers s"),
            [tuple(f"{x:.2f}" for x in (uploads.servable, uploads.servable_longest, uploads.upload_p50))],
        )


def _show_zipf(zipf: ZipfFigures) -> None:
    print_table(
        f"{zipf.requests} requests at once, zipf over {zipf.adapters} adapters and over 5",
        ("adapters asked for", f"tokens/s over {zipf.adapters}", "tokens/s over 5", "kept"),
        [(str(zipf.asked_for), f"{zipf.many:.0f}", f"{zipf.few:.0f}", f"{zipf.kept:.3f}")],
    )


def _row(name: str, storm: Storm) -> tuple[str, ...]:
    times = (f"{storm.first_p50:.1f}", f"{storm.first_p99:.1f}", f"{storm.inter_p99:.2f}")
    return (name, str(storm.requests), *times, f"{storm.throughput:.0f}")


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
