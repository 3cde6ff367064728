"""How long an upload takes over a loopback connection, from a client's folder to a version to be loaded.

    python -m loadtests.upload_times --rank 16

Client and front are real, each in a process of its own. In place of the engine, which would need its base,
stand the processes that pack adapters for one.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from adapters.contents import Proofs
from adapters.files import WEIGHTS_NAME
from adapters.manifest import Manifest
from loadtests.random_house import write_adapter, write_house
from loadtests.synthetic import SHAPES, config_of
from loadtests.upload_client import send
from server.app import Front
from server.config import ServerConfig
from server.engine.maker import Maker
from server.engine.messages import Ready, Stats
from server.engine.packers import Packers
from server.model.shapes import base_shapes
from server.news import News
from server.places import Places

MAX_RANK = 256


class PackingLink:
    """Of an engine, what uploads ask of it."""

    def __init__(self, maker: Maker) -> None:
        self.ready: Ready | None = None
        self.stats: Stats | None = None
        self.is_alive = True
        self.news = News()
        self.places = Places(self.news)
        self._maker = maker
        self._packers = Packers(as_processes=True, likely=maker)

    async def start(self) -> None:
        shapes = self._maker.shapes
        self.ready = Ready(
            family="llama",
            vocab_size=shapes.vocab_size,
            shapes=shapes,
            block_size=16,
            num_blocks=1,
            adapter_slots=1,
            max_rank=MAX_RANK,
            max_context=16,
            dtype="bfloat16",
            device="cpu",
            load_seconds=0.0,
        )
        self.news.tell()

    async def stop(self) -> None:
        self.ready = None

    async def prepare(self, folder: Path, manifest: Manifest) -> Manifest:
        await asyncio.to_thread(self._packers.run, self._maker.pack, folder, manifest)
        return manifest


def main() -> None:
    args = _parse()
    torch.set_num_threads(1)
    config = config_of(args.model)
    maker = Maker(config, base_shapes(config, "f" * 64), MAX_RANK, torch.bfloat16)
    with tempfile.TemporaryDirectory(dir=args.folder or None) as root:
        folder = write_adapter(args.model, args.rank, Path(root) / "adapter")
        size = (folder / WEIGHTS_NAME).stat().st_size
        print(f"{size / 1e6:.1f} MB, {args.runs} times, ms in the middle (and least)")
        asyncio.run(_measure(Path(root), folder, maker, args.runs))


async def _measure(root: Path, folder: Path, maker: Maker, runs: int) -> None:
    base = write_house("tiny", root)
    config = ServerConfig(base=str(base), port=0, metrics_port=-1, adapter_store=root / "store")
    # What else a link does nobody asks here.
    link: Any = PackingLink(maker)
    front = Front(config, lambda config: link)
    await front.start()
    try:
        await front.wait_ready()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            work = pool.submit(send, f"127.0.0.1:{front.port}", folder, os.getpid(), runs)
            rows = await asyncio.wrap_future(work)
        versions, _ = front._directory.store.list("default")
        rows["packed adapter read"] = [await asyncio.to_thread(_find, front, maker, v) for v in versions]
    finally:
        await front.stop()
    for name, seconds in rows.items():
        print(f"{name}: {1e3 * statistics.median(seconds):.0f} ({1e3 * min(seconds):.0f})")


def _find(front: Front, maker: Maker, version: Any) -> float:
    """Seconds of an engine's first read, and of zeros where it will stand."""
    folder, manifest = front._directory.folder(version.digest), version.manifest
    begun = time.perf_counter()
    found = maker.find(folder, manifest, lambda size, dtype: torch.zeros(size, dtype=dtype), Proofs())
    assert found is not None, "an upload was packed before it was visible"
    return time.perf_counter() - begun


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="8b", choices=tuple(SHAPES))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--folder", default="", help="where the store is made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
