"""The client of `upload_times`, in a process of its own."""

import os
import random
import time
from pathlib import Path

import psutil

from lorikeet import Client
from lorikeet.upload import WEIGHTS_NAME, read_folder


def send(target: str, folder: Path, front: int, runs: int) -> dict[str, list[float]]:
    """The same adapter with a few numbers changed, again and again; seconds of each."""
    names = ("hashed by the client", "uploaded", "processor time of front and packers")
    rows: dict[str, list[float]] = {name: [] for name in names}
    with Client(target) as client:
        for run in range(runs + 1):
            _change(folder / WEIGHTS_NAME)
            begun = time.perf_counter()
            read_folder(folder)
            hashed, used = time.perf_counter(), _cpu_seconds(front)
            client.adapters.upload(folder, f"adapter-{run}")
            seconds = (hashed - begun, time.perf_counter() - hashed, _cpu_seconds(front) - used)
            # The first one begins what is not begun before it is needed.
            for row, value in zip(rows.values(), seconds, strict=True):
                row.extend([value] * (run > 0))
    return rows


def _change(path: Path) -> None:
    with path.open("r+b") as file:
        # The low byte of a bfloat16: no number becomes large.
        file.seek(-2, os.SEEK_END)
        file.write(bytes([random.randrange(256)]))


def _cpu_seconds(pid: int) -> float:
    """Of a process and of all that it began, but for who asks."""
    front = psutil.Process(pid)
    others = [child for child in front.children(recursive=True) if child.pid != os.getpid()]
    times = [each.cpu_times() for each in (front, *others)]
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))
