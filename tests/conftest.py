"""Fixtures every folder shares: tiny bases and adapters, built once a run."""

import os
from collections.abc import Iterator

import pytest

from tests.warm import Starter, warm

# One thread a worker: the suite runs on several processes, and tiny matrices gain nothing from more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Triton's kernels run under its interpreter where there is no CUDA device.
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    with warm() as starter:
        yield starter
