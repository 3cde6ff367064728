"""bitsandbytes, imported without what it never uses here."""

from functools import cache
from typing import Any

import torch


@cache
def functional() -> Any:
    """The module bitsandbytes.functional.

    At its import it has torch compile some twins in plain torch, or leaves them as they are where that fails.
    Loading the compiler takes seconds; both CUDA devices and CPUs have kernels of their own for all of them.
    """
    compiler = torch.compile
    torch.compile = _refuse
    try:
        import bitsandbytes.functional
    finally:
        torch.compile = compiler
    return bitsandbytes.functional


def _refuse(*_: object, **__: object) -> Any:
    raise RuntimeError("not compiled: only a device's own kernels are called")
