"""The normal form: per linear one low-rank pair, the scale folded into B. The only file that needs torch.

delta W = B A,   A: [rank, in_features],   B: [out_features, rank], already times alpha / rank
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapters.errors import InvalidAdapter
from adapters.files import WEIGHTS_NAME, open_regular
from adapters.format import pair_names
from adapters.header import TensorInfo, parse_header
from adapters.manifest import FileSpec, Manifest

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class LowRank:
    """a: [rank, in_features]; b: [out_features, rank], with the scale folded in."""

    a: Tensor
    b: Tensor


def load(folder: Path, manifest: Manifest, dtype: torch.dtype = torch.float32) -> dict[str, LowRank]:
    """Reads a checked adapter; raises InvalidAdapter if any file is no longer what was checked.

    The bytes that are hashed are the bytes that become tensors: nothing is read twice.
    """
    contents = {spec.name: _read_verified(folder / spec.name, spec) for spec in manifest.files}
    weights = contents[WEIGHTS_NAME]
    tensors = parse_header(bytes(weights[: 8 + int.from_bytes(weights[:8], "little")]), len(weights))
    pairs = {}
    for linear, target in manifest.targets.items():
        a, b = (_tensor(weights, tensors[name]) for name in pair_names(linear))
        pairs[linear] = LowRank(a.to(dtype), (b.float() * target.scale).to(dtype))
    return pairs


def _read_verified(path: Path, spec: FileSpec) -> bytearray:
    content = bytearray(spec.size + 1)
    with open_regular(path) as fd, open(fd, "rb", buffering=0, closefd=False) as file:
        size, view = 0, memoryview(content)
        while size < len(content) and (num_read := file.readinto(view[size:])):
            size += num_read
    del view
    del content[size:]
    if size != spec.size or hashlib.sha256(content).hexdigest() != spec.sha256:
        raise InvalidAdapter([f"{path.name} is not the file that was checked; its bytes changed on disk"])
    return content


def _tensor(weights: bytearray, info: TensorInfo) -> Tensor:
    # A copy, because the file promises no alignment and a pair should not keep the whole file alive.
    own = bytearray(memoryview(weights)[info.start : info.end])
    return torch.frombuffer(own, dtype=_DTYPES[info.dtype]).reshape(info.shape)
