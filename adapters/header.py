"""The safetensors header, parsed by us before any library sees the file.

    | length: u64 LE | JSON header, `length` bytes | tensor bytes, contiguous, nothing after them |

Every step is bounded, so a hostile header costs milliseconds where the stock parser takes minutes.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from adapters.errors import InvalidAdapter
from adapters.files import WEIGHTS_NAME, read_at
from adapters.strict_json import parse_object, show

MAX_HEADER_BYTES = 1024 * 1024
# 80 layers x 7 linears x (A, B) is 1,120; this leaves room for any model in sight.
MAX_TENSORS = 8192
MAX_METADATA_BYTES = 16 * 1024
MAX_DIMS = 2
MAX_DEPTH = 4
ITEM_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Taken:
    """Which shapes a kind's tensors may have."""

    max_dims: int
    may_be_empty: bool

    def takes(self, shape: list[int]) -> bool:
        return 1 <= len(shape) <= self.max_dims and (self.may_be_empty or 0 not in shape)

    def __str__(self) -> str:
        return "1 or 2" if self.max_dims == MAX_DIMS else f"1 to {self.max_dims}"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its dtype name, shape, and bytes [start, end) counted from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(fd: int, max_dims: int = MAX_DIMS, may_be_empty: bool = False) -> dict[str, TensorInfo]:
    """Reads the header of an open file; raises InvalidAdapter with every problem."""
    raw = read_at(fd, 0, 8 + MAX_HEADER_BYTES)
    return parse_header(raw, os.fstat(fd).st_size, max_dims, may_be_empty)


def parse_header(
    raw: bytes, file_size: int, max_dims: int = MAX_DIMS, may_be_empty: bool = False
) -> dict[str, TensorInfo]:
    """Parses the first bytes of a file that is `file_size` bytes long.

    `raw` needs to hold the length and the header, more is ignored. `may_be_empty` takes dimensions of 0,
    which a pruned rank has. Raises InvalidAdapter with every problem.
    """
    length = _header_length(raw, file_size)
    header = parse_object(raw[8 : 8 + length], f"the header of {WEIGHTS_NAME}", MAX_DEPTH)
    problems: list[str] = []
    _check_metadata(header.pop("__metadata__", {}), problems)
    if not 0 < len(header) <= MAX_TENSORS:
        problems.append(f"{WEIGHTS_NAME} holds {len(header)} tensors; 1 to {MAX_TENSORS} are taken")
        raise InvalidAdapter(problems)
    tensors = {}
    for name, entry in header.items():
        info = _read_entry(name, entry, 8 + length, Taken(max_dims, may_be_empty), problems)
        if info is not None:
            tensors[name] = info
    if not problems:
        _check_layout(tensors, 8 + length, file_size, problems)
    if problems:
        raise InvalidAdapter(problems)
    return tensors


def _header_length(raw: bytes, file_size: int) -> int:
    if len(raw) < 8:
        raise InvalidAdapter([f"{WEIGHTS_NAME} is too short to be a safetensors file"])
    length = int.from_bytes(raw[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise InvalidAdapter(
            [f"{WEIGHTS_NAME} declares a header of {length} bytes; at most {MAX_HEADER_BYTES} are taken"]
        )
    if 8 + length > min(file_size, len(raw)):
        raise InvalidAdapter([f"{WEIGHTS_NAME} ends inside its header"])
    if raw[8:9] != b"{":
        raise InvalidAdapter([f"{WEIGHTS_NAME} is no safetensors file: its header does not begin with '{{'"])
    return length


def _check_metadata(metadata: Any, problems: list[str]) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        problems.append("__metadata__ must map strings to strings")
    elif sum(len(key) + len(value) for key, value in metadata.items()) > MAX_METADATA_BYTES:
        problems.append(f"__metadata__ is larger than {MAX_METADATA_BYTES} bytes")


def _read_entry(
    name: str, entry: Any, data_start: int, taken: Taken, problems: list[str]
) -> TensorInfo | None:
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        problems.append(f"tensor {show(name)} must have exactly dtype, shape and data_offsets")
        return None
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        problems.append(
            f"tensor {show(name)} has dtype {show(dtype)}; save it as one of {', '.join(ITEM_SIZES)}"
        )
        return None
    if not _is_counts(shape) or not taken.takes(shape):
        problems.append(f"tensor {show(name)} has shape {show(shape)}; {taken} positive dimensions are taken")
        return None
    if not _is_counts(offsets) or len(offsets) != 2:
        problems.append(f"tensor {show(name)} has data_offsets {show(offsets)}; two offsets are needed")
        return None
    start, end = offsets
    num_bytes = math.prod(shape) * ITEM_SIZES[dtype]
    if end - start != num_bytes:
        problems.append(f"tensor {show(name)} takes {num_bytes} bytes but its offsets span {end - start}")
        return None
    return TensorInfo(dtype, tuple(shape), data_start + start, data_start + end)


def _is_counts(value: Any) -> bool:
    # `type(...) is int`, because True is an int to isinstance.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(
    tensors: dict[str, TensorInfo], data_start: int, file_size: int, problems: list[str]
) -> None:
    at = data_start
    # By both ends, so that an empty one comes before what begins where it stands.
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != at:
            problems.append(
                f"tensor {show(name)} {'overlaps another' if info.start < at else 'leaves a hole before it'}"
            )
            return
        at = info.end
    if at != file_size:
        problems.append(f"{WEIGHTS_NAME} should end at byte {at} but is {file_size} bytes long")
