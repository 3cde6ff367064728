"""How long an adapter takes from an upload's bytes into the store, and from there to host memory.

    python -m loadtests.adapter_times --rank 8 --targets q_proj,v_proj

Loads beside nothing, and beside a thread that uses the interpreter's lock as steps do that are not graphs.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file
from torch import Tensor

from adapters.contents import Proofs
from adapters.errors import InvalidAdapter
from adapters.files import CHUNK_BYTES, CONFIG_NAME, WEIGHTS_NAME
from adapters.format import inspect
from adapters.manifest import Manifest
from adapters.sandbox import Sandbox
from adapters.store import LocalStore
from loadtests.synthetic import ADAPTER_SPREAD, SHAPES, config_of
from loadtests.thrash.config import is_target
from server.engine.maker import Maker
from server.engine.process import SWITCH_SECONDS
from server.model.adapter import AdapterBlob
from server.model.parts import FUSED
from server.model.shapes import base_shapes

RUNS = 9
ALL_LINEARS = [name.rpartition(".")[2] for names in FUSED.values() for name in names]


def main() -> None:
    args = _parse()
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_SECONDS)
    config = config_of(args.model)
    maker = Maker(config, base_shapes(config, "f" * 64), 256, torch.bfloat16)
    with tempfile.TemporaryDirectory(dir=args.folder or None) as root:
        folder = Path(root) / "adapter"
        folder.mkdir()
        _write(folder, maker, args.rank, args.targets.split(","))
        manifest = inspect(folder, maker.shapes, 256)
        print(f"{manifest.num_bytes / 1e6:.1f} MB, ms as wall clock / this thread's processor time")
        loads = Loads(maker, folder, manifest)
        print(f"load: {loads.all()}")
        with _steps() as turns:
            alone = _middle_turn(turns)
            print(f"load beside steps: {loads.all()}")
        print(f"turns of those: {alone:.1f} ms alone, {1e3 * statistics.median(turns):.1f} beside loads")
        print(f"upload: {_upload(Path(root) / 'store', folder, manifest, maker)}")


class Loads:
    """Of one adapter, into memory that is there already."""

    def __init__(self, maker: Maker, folder: Path, manifest: Manifest) -> None:
        self._maker, self._folder, self._manifest = maker, folder, manifest
        self._memory = maker.make(folder, manifest).flat.clone()
        maker.pack(folder, manifest)
        self._proofs = Proofs()

    def all(self) -> str:
        works = {"made of its files": self._make, "read, first": self._first, "read again": self._again}
        return ", ".join(f"{name} {_middle(work)}" for name, work in works.items())

    def _make(self) -> AdapterBlob | None:
        return self._maker.make(self._folder, self._manifest, self._allocate)

    def _first(self) -> AdapterBlob | None:
        return self._maker.find(self._folder, self._manifest, self._allocate, Proofs())

    def _again(self) -> AdapterBlob | None:
        return self._maker.find(self._folder, self._manifest, self._allocate, self._proofs)

    def _allocate(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        return self._memory[:num_elements]


def _middle(work: Callable[[], object]) -> str:
    walls, cores = [], []
    for _ in range(RUNS):
        wall, core = time.perf_counter(), time.thread_time()
        work()
        walls.append(1e3 * (time.perf_counter() - wall))
        cores.append(1e3 * (time.thread_time() - core))
    return f"{statistics.median(walls):.1f} / {statistics.median(cores):.1f}"


def _upload(root: Path, folder: Path, manifest: Manifest, maker: Maker) -> str:
    """Each stage once: what the front does with an upload's bytes; it syncs while it checks and packs."""
    store, times = LocalStore(root), {}
    staging = store.stage(manifest.files, 1 << 40)
    contents = {file.name: (folder / file.name).read_bytes() for file in manifest.files}

    def write() -> None:
        for name, content in contents.items():
            for at in range(0, len(content), CHUNK_BYTES):
                staging.write(name, at, content[at : at + CHUNK_BYTES])
        staging.verify()

    with Sandbox() as sandbox:
        # Once it has answered, it has begun.
        with suppress(InvalidAdapter):
            sandbox.inspect(root / "nothing", maker.shapes, 256)
        stages: dict[str, Callable[[], object]] = {
            "written and hashed": write,
            "synced": staging.sync,
            "checked": lambda: sandbox.inspect(staging.folder, maker.shapes, 256, files=staging.files),
            "packed": lambda: maker.pack(staging.folder, manifest),
            "committed": lambda: store.commit(staging, "default", "one", manifest),
        }
        for name, stage in stages.items():
            wall, core = time.perf_counter(), _cpu_seconds()
            stage()
            seconds = time.perf_counter() - wall, _cpu_seconds() - core
            times[name] = " / ".join(f"{1e3 * each:.0f}" for each in seconds)
    store.close()
    return ", ".join(f"{name} {each}" for name, each in times.items())


def _cpu_seconds() -> float:
    """Of this process and what it began."""
    begun = [child.cpu_times() for child in psutil.Process().children()]
    others = sum(each.user + each.system + each.children_user + each.children_system for each in begun)
    return time.process_time() + float(others)


@contextmanager
def _steps() -> Iterator[list[float]]:
    """Seconds of its turns: operations on a few numbers and Python between them, some 10 ms."""
    over, turns, numbers = threading.Event(), list[float](), torch.zeros(64)

    def step() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            for _ in range(1000):
                numbers.add_(1)
                sum(range(40))
            turns.append(time.perf_counter() - begun)

    thread = threading.Thread(target=step)
    thread.start()
    try:
        yield turns
    finally:
        over.set()
        thread.join()


def _middle_turn(turns: list[float]) -> float:
    """Milliseconds of the turns so far, which are forgotten."""
    while len(turns) < RUNS:
        time.sleep(0.01)
    middle = 1e3 * statistics.median(turns)
    turns.clear()
    return middle


def _write(folder: Path, maker: Maker, rank: int, targets: list[str]) -> None:
    """An adapter in bfloat16, as PEFT saves it."""
    numbers, tensors = torch.Generator().manual_seed(0), {}
    for name, (rows, width) in maker.shapes.linears.items():
        if is_target(name, targets):
            for part, shape in (("A", (rank, width)), ("B", (rows, rank))):
                drawn = torch.randn(shape, generator=numbers) * ADAPTER_SPREAD
                tensors[f"base_model.model.{name}.lora_{part}.weight"] = drawn.bfloat16()
    save_file(tensors, folder / WEIGHTS_NAME)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank}
    (folder / CONFIG_NAME).write_text(json.dumps({**config, "target_modules": targets}))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="8b", choices=tuple(SHAPES))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", default=",".join(ALL_LINEARS))
    parser.add_argument("--folder", default="", help="where the store is made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
