"""An adapter as the engine serves it, in one file, which is read straight to where it will stand.

| the blob's bytes | About: JSON | its length: u64 LE | its sha256: 32 bytes |

It is made of the adapter's files and can be made again at any time, so it is not synced: what is torn, turned
over, or another's counts as not there.
"""

import hashlib
import os
import struct
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from adapters.contents import Bytes, Proofs
from adapters.durable import create, write_all
from adapters.errors import InvalidAdapter
from adapters.files import open_regular, read_at
from server.model.adapter import AdapterBlob, Allocate, Pair, Table, Vector

_FORMAT = "lorikeet-packed-v1"
_LENGTH, _SHA256 = 8, 32
# 128 layers of everything take a quarter.
_MAX_ABOUT = 1 << 20


class About(msgspec.Struct, frozen=True):
    """All but the bytes. key: of what it was made; sha256: of the blob's bytes."""

    key: str
    sha256: str
    num_elements: int
    pairs: tuple[Pair, ...]
    vectors: tuple[Vector, ...]
    tables: tuple[Table, ...]
    vocab_size: int


def key_of(*sources: object) -> str:
    """One word for all that decides what a blob holds."""
    return hashlib.sha256("\n".join(map(str, (_FORMAT, *sources))).encode()).hexdigest()


def write_packed(path: Path, key: str, blob: AdapterBlob) -> None:
    """Whole or not at all, but for a crash of the machine. Raises OSError."""
    content = _bytes(blob.flat)
    layout = (blob.pairs, blob.vectors, blob.tables, blob.vocab_size)
    about = About(key, hashlib.sha256(content.data).hexdigest(), blob.flat.numel(), *layout)
    text = msgspec.json.encode(about, enc_hook=_dtype_name)
    draft = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        fd = create(draft)
        try:
            for part in (content.data, text, struct.pack("<Q", len(text)), hashlib.sha256(text).digest()):
                write_all(fd, part)
        finally:
            os.close(fd)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def read_packed(
    path: Path, key: str, dtype: torch.dtype, allocate: Allocate, proofs: Proofs
) -> AdapterBlob | None:
    """None where there is none, or none that is whole and of this key; its memory is then not in use."""
    try:
        with open_regular(path) as fd:
            about = _read_about(fd)
            if about.key != key:
                return None
            return _read_blob(fd, about, dtype, allocate, proofs)
    except (InvalidAdapter, OSError, ValueError, msgspec.MsgspecError):
        return None


def _read_about(fd: int) -> About:
    """Raises ValueError where it is not what was written."""
    end = os.fstat(fd).st_size - _LENGTH - _SHA256
    tail = read_at(fd, end, _LENGTH + _SHA256)
    (length,) = struct.unpack("<Q", tail[:_LENGTH])
    if not 0 < length <= min(end, _MAX_ABOUT):
        raise ValueError("no packed adapter")
    text = read_at(fd, end - length, length)
    if hashlib.sha256(text).digest() != tail[_LENGTH:]:
        raise ValueError("what is said of a packed adapter was changed")
    return msgspec.json.decode(text, type=About, dec_hook=_dtype_of)


def _read_blob(
    fd: int, about: About, dtype: torch.dtype, allocate: Allocate, proofs: Proofs
) -> AdapterBlob | None:
    flat = allocate(about.num_elements, dtype)
    if not proofs.read(fd, _bytes(flat), about.sha256):
        return None
    return AdapterBlob(flat, about.pairs, about.vectors, about.tables, about.vocab_size)


def _bytes(flat: Tensor) -> Bytes:
    """The same memory."""
    return flat.view(torch.uint8).numpy()


def _dtype_name(value: Any) -> str:
    return str(value).removeprefix("torch.")


def _dtype_of(kind: type, name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return dtype
