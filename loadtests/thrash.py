"""`lorikeet loadtest thrash`: more adapters than the device has room for, asked of a real server.

An open loop: requests come at random instants, as often as told, whatever became of the ones before. For each
number of adapters one server of random weights, with device memory for `room` of them; its client counts.
"""

import asyncio
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import torch

from loadtests.figures import LoadTestError, finite, print_table
from loadtests.random_house import write_adapter, write_tokenizer
from loadtests.start import write_base
from loadtests.synthetic import SHAPES, config_of
from lorikeet import Client
from lorikeet.local import serving
from lorikeet.v1 import inference_pb2
from lorikeet.v1.inference_pb2_grpc import InferenceStub
from server.engine.config import COUNT, check_options, option
from server.model.adapter import ALIGNMENT

# Goals on one H200 for the 8b shape in bfloat16, rank 16, room for 8: adapters -> milliseconds.
FIRST_TOKEN_GOALS = {8: 40.0, 16: 60.0, 64: 120.0}
THROUGHPUT_GOAL, INTER_TOKEN_GOAL = 0.9, 1.2


@dataclass(frozen=True, kw_only=True)
class ThrashConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    quantization: str = option("none", "how the base is held", choices=("nf4", "int8", "none"))
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    adapters: str = option(
        "8,16,64", "numbers of adapters to ask for, with commas; the first is compared with"
    )
    room: int = option(8, "adapters that the device has memory for", bounds=COUNT)
    rank: int = option(16, "of all adapters", bounds=COUNT)
    rate: float = option(8.0, "requests a second", bounds=(0.01, 10_000))
    seconds: float = option(25.0, "in which requests come, for each number of adapters", bounds=(0.1, 86_400))
    prompt: int = option(256, "tokens of a prompt", bounds=COUNT)
    answer: int = option(64, "tokens of an answer", bounds=(2, 100_000))
    host_cache_bytes: int = option(8 << 30, "bytes of adapters in host memory", bounds=COUNT)
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        if not all(part.strip().isdigit() and int(part) for part in self.adapters.split(",")):
            raise ValueError(f"adapters {self.adapters!r} are no numbers with commas between them")

    @property
    def counts(self) -> list[int]:
        return [int(part) for part in self.adapters.split(",")]


@dataclass
class Heard:
    """One request: seconds from when it was due to each of its tokens, in the order in which they came."""

    due: float
    tokens: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Storm:
    """Milliseconds as a client sees them, and tokens a second from the first request to the last token."""

    adapters: int
    requests: int
    first_p50: float
    first_p99: float
    inter_p99: float
    throughput: float


def run(config: ThrashConfig) -> int:
    """0 if every bar is met; bars are those of the 8b shape, and other shapes meet none and miss none."""
    with tempfile.TemporaryDirectory(prefix="lorikeet-thrash-") as temporary:
        root = Path(temporary)
        write_base(config.model, root / "base")
        write_tokenizer(config_of(config.model).vocab_size, root / "base")
        folders = [
            write_adapter(config.model, config.rank, root / "adapters" / str(i), i)
            for i in range(max(config.counts))
        ]
        storms = _storms(config, root, folders)
    bars = judge(storms, config.model == "8b" and config.quantization == "none" and config.room == 8)
    _report(config, storms, bars)
    if config.json:
        figures = {"storms": [asdict(storm) for storm in storms], "bars": bars}
        Path(config.json).write_text(json.dumps(finite(figures), indent=2) + "\n")
    return 0 if all(met for *_, met in bars) else 1


def _storms(config: ThrashConfig, root: Path, folders: Sequence[Path]) -> list[Storm]:
    flags = ["--quantization", config.quantization, "--device", config.device]
    flags += ["--adapter-memory", str(config.room * adapter_bytes(config)), "--max-context", "4096"]
    flags += ["--host-cache-bytes", str(config.host_cache_bytes), "--adapter-slots", str(config.room)]
    flags += ["--stream-interval", "0", "--max-rank", str(max(64, config.rank))]
    with serving(root / "base", root, flags) as server, Client(server.target) as client:
        server.wait_ready(client)
        for number, folder in enumerate(folders):
            client.adapters.upload(folder, f"thrash-{number}")
        # The first of each server pays for what is compiled and loaded once.
        asyncio.run(storm(server.target, config, config.room, min(3.0, config.seconds)))
        return [asyncio.run(storm(server.target, config, count, config.seconds)) for count in config.counts]


async def storm(target: str, config: ThrashConfig, count: int, seconds: float) -> Storm:
    """Requests over adapters alike, at the instants of a Poisson process that is the same for every count."""
    chance, dues, at = random.Random(1), list[float](), 0.0
    while (at := at + chance.expovariate(config.rate)) < seconds or not dues:
        dues.append(at)
    vocab = config_of(config.model).vocab_size
    begun = time.perf_counter()
    async with grpc.aio.insecure_channel(target) as channel:
        stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
        heard = await asyncio.gather(
            *(
                _ask(stub, config, begun + due, chance.randrange(count), chance.randrange(8, vocab))
                for due in dues
            )
        )
    return summarize(count, heard, time.perf_counter() - begun - dues[0])


async def _ask(stub: InferenceStub, config: ThrashConfig, due: float, adapter: int, token: int) -> Heard:
    """The prompt begins with a token that hardly another has: none finds it in the prefix cache."""
    await asyncio.sleep(due - time.perf_counter())
    request = inference_pb2.GenerateRequest(
        adapter_id=f"thrash-{adapter}",
        token_ids=inference_pb2.TokenIds(ids=[token, *range(8, 7 + config.prompt)]),
        sampling=inference_pb2.Sampling(max_new_tokens=config.answer, ignore_eos=True),
    )
    heard = Heard(due)
    async for message in stub.Generate(request):
        heard.tokens += [time.perf_counter() - due] * len(message.token_ids)
    if len(heard.tokens) != config.answer:
        raise LoadTestError(f"a request for {config.answer} tokens was answered with {len(heard.tokens)}")
    return heard


def summarize(count: int, heard: Sequence[Heard], seconds: float) -> Storm:
    firsts = torch.tensor([each.tokens[0] for each in heard], dtype=torch.float64) * 1e3
    gaps = torch.cat([torch.tensor(each.tokens, dtype=torch.float64).diff() for each in heard]) * 1e3
    return Storm(
        adapters=count,
        requests=len(heard),
        first_p50=float(firsts.quantile(0.5)),
        first_p99=float(firsts.quantile(0.99)),
        inter_p99=float(gaps.quantile(0.99)),
        throughput=sum(len(each.tokens) for each in heard) / seconds,
    )


def judge(storms: Sequence[Storm], has_goals: bool) -> list[tuple[str, float, float, bool]]:
    """(what, value, goal, met) for every goal; others are compared with the first."""
    met: list[tuple[str, float, float, bool]] = []
    for each in storms if has_goals else ():
        goal = FIRST_TOKEN_GOALS.get(each.adapters, math.inf)
        met.append((f"first token p50 of {each.adapters}, ms", each.first_p50, goal, each.first_p50 <= goal))
        growth = each.inter_p99 / storms[0].inter_p99
        what = f"inter-token p99 of {each.adapters} over the first's"
        met.append((what, growth, INTER_TOKEN_GOAL, growth <= INTER_TOKEN_GOAL))
        if each.adapters == 16:
            kept = each.throughput / storms[0].throughput
            met.append(("throughput of 16 over the first's", kept, THROUGHPUT_GOAL, kept >= THROUGHPUT_GOAL))
    return met


def adapter_bytes(config: ThrashConfig) -> int:
    """Of one adapter on the device, B's rows padded."""
    padded = -(-config.rank // ALIGNMENT) * ALIGNMENT
    shapes = config_of(config.model).linear_shapes().values()
    entries = sum(config.rank * width + padded * rows for rows, width in shapes)
    return entries * (2 if _is_on_gpu(config) else 4)


def _is_on_gpu(config: ThrashConfig) -> bool:
    return config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())


def _report(
    config: ThrashConfig, storms: Sequence[Storm], bars: Sequence[tuple[str, float, float, bool]]
) -> None:
    print_table(
        f"{config.model} shape, {config.quantization}, rank {config.rank}, room for {config.room};"
        f" {config.rate:g} requests a second of {config.prompt} tokens in and {config.answer} out",
        ("adapters", "requests", "first token p50 ms", "p99 ms", "inter-token p99 ms", "tokens/s"),
        [
            (
                str(s.adapters),
                str(s.requests),
                f"{s.first_p50:.1f}",
                f"{s.first_p99:.1f}",
                f"{s.inter_p99:.2f}",
                f"{s.throughput:.0f}",
            )
            for s in storms
        ],
    )
    if bars:
        rows = [
            (what, f"{value:.2f}", f"{goal:g}", "pass" if met else "FAIL") for what, value, goal, met in bars
        ]
        print_table("Bars", ("figure", "value", "goal", ""), rows)
