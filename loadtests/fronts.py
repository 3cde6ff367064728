"""What fronts cost: processor time of each process for a token, with one front and with several.

python -m loadtests.fronts --fronts 1,2 --streams 64 --tokens 100
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

from loadtests.figures import print_table
from loadtests.random_house import write_house
from lorikeet.client import Client
from lorikeet.local import serving
from lorikeet.v1 import inference_pb2
from lorikeet.v1.inference_pb2_grpc import InferenceStub

FRONT, ENGINE = "server.fronts.process", "server.engine.process"


@dataclass(frozen=True)
class Cost:
    """seconds: of processor time, by process. tokens: that clients got meanwhile."""

    fronts: int
    tokens: int
    seconds: Mapping[str, float]

    def microseconds(self, process: str) -> float:
        """For each token of the whole server."""
        return self.seconds[process] / self.tokens * 1e6

    @property
    def most(self) -> float:
        """Tokens a second at which the busiest front has a core for itself and no time left."""
        return self.tokens / max(used for name, used in self.seconds.items() if name != "engine")


def measure(fronts: int, base: Path, folder: Path, streams: int, tokens: int, rounds: int) -> Cost:
    """A message for each token, and a connection for each stream: they spread over the fronts by chance."""
    # The pace of an engine on a CPU says nothing of a front: no grouping, the dearest case.
    flags = ["--fronts", str(fronts), "--stream-interval", "0", "--threads", "1"]
    flags += ["--max-running", str(streams)]
    with serving(base, folder, flags) as server:
        with Client(server.target) as client:
            server.wait_ready(client)
        _burst(server.target, streams, 4)
        processes = _processes(server.process.pid, fronts)
        before = {name: _seconds(process) for name, process in processes.items()}
        got = sum(_burst(server.target, streams, tokens) for _ in range(rounds))
        used = {name: _seconds(process) - before[name] for name, process in processes.items()}
    return Cost(fronts, got, used)


def _processes(first: int, fronts: int) -> dict[str, psutil.Process]:
    found = {"front 1": psutil.Process(first)}
    others = [child for child in found["front 1"].children() if FRONT in child.cmdline()]
    assert len(others) == fronts - 1, "every front had answers of the burst to give"
    found |= {f"front {number}": process for number, process in enumerate(others, 2)}
    engine = [child for child in psutil.Process(first).children() if ENGINE in child.cmdline()]
    return {**found, "engine": engine[0]}


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _burst(target: str, streams: int, tokens: int) -> int:
    async def all_at_once() -> int:
        return sum(await asyncio.gather(*(_stream(target, tokens) for _ in range(streams))))

    return asyncio.run(all_at_once())


async def _stream(target: str, tokens: int) -> int:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        stub: Any = InferenceStub(channel)  # type: ignore[no-untyped-call]
        request = inference_pb2.GenerateRequest(
            token_ids=inference_pb2.TokenIds(ids=[7, 8, 9]),
            sampling=inference_pb2.Sampling(max_new_tokens=tokens, ignore_eos=True),
        )
        return sum([len(message.token_ids) async for message in stub.Generate(request)])


def _report(costs: Sequence[Cost]) -> None:
    rows = [
        (str(cost.fronts), process, f"{cost.microseconds(process):.0f}", f"{cost.most:.0f}")
        for cost in costs
        for process in cost.seconds
    ]
    print_table("Fronts", ("fronts", "process", "us / token", "tokens/s at most"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fronts", default="1,2", help="how many, a list")
    parser.add_argument("--streams", type=int, default=64, help="at once")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorikeet-fronts-") as folder:
        base = write_house("tiny", Path(folder))
        costs = []
        for fronts in map(int, args.fronts.split(",")):
            place = Path(folder) / str(fronts)
            place.mkdir()
            costs.append(measure(fronts, base, place, args.streams, args.tokens, args.rounds))
    _report(costs)
    if args.json:
        figures = [{"fronts": c.fronts, "tokens": c.tokens, "seconds": dict(c.seconds)} for c in costs]
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
