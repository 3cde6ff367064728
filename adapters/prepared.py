"""Adapters in their normal form: straight from their files, or from what was prepared of them once.

<adapter's folder>/prepared/<base fingerprint>.safetensors    the normal form, float32
<adapter's folder>/prepared/<base fingerprint>.json           its sha256, whose it is, and how exact

The sidecar is written before the adapter becomes visible and can be made again at any time from the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from adapters.contents import read_proven
from adapters.deltas.assemble import CONVERTED, Updates, assemble
from adapters.deltas.context import Base, Setting
from adapters.durable import make_folder, replace_file
from adapters.errors import InvalidAdapter
from adapters.facts import manifest_of
from adapters.files import CONFIG_NAME, WEIGHTS_NAME, FileSpec
from adapters.flat import cast, flatten, unflatten
from adapters.header import TensorInfo, parse_header
from adapters.manifest import BaseShapes, Conversion, Manifest
from adapters.normal import AdapterWeights
from adapters.peft_config import AdapterConfig, parse_config
from adapters.plan import Plan, make_plan

PREPARED = "prepared"
# Reads a file whole; raises InvalidAdapter if it is not what the spec says.
Read = Callable[[Path, FileSpec], memoryview]
_FORMAT = "lorikeet-prepared-v1"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_WHOLE = "adapter was checked against another base, or its manifest was changed on disk"


@dataclass(frozen=True)
class Opened:
    """A checked adapter whose bytes are proven to be those of its digest."""

    config: AdapterConfig
    plan: Plan
    tensors: dict[str, Tensor]


def load(
    folder: Path,
    manifest: Manifest,
    base: BaseShapes,
    max_rank: int,
    dtype: torch.dtype = torch.float32,
    read: Read = read_proven,
) -> AdapterWeights:
    """The normal form of a stored adapter, for serving over this base.

    Pairs and tables are in `dtype`, the vectors of linears in float32. Tensors may be views of what `read`
    returns. Raises InvalidAdapter if any file is no longer what was checked, if the base is another one, or
    if the adapter is neither direct nor prepared for it; OSError when the disk fails.
    """
    if manifest.direct:
        opened = _open(folder, manifest, base, max_rank, read)
        weights, _ = assemble(
            Setting(opened.config, opened.plan, base, max_rank, dtype=dtype), opened.tensors
        )
    else:
        weights = _read_prepared(folder, manifest, base.fingerprint, read)
    return cast(weights, dtype)


def is_prepared(folder: Path, manifest: Manifest, fingerprint: str) -> bool:
    """Whether `load` finds all it needs for the base of this fingerprint."""
    return manifest.direct or (bool(fingerprint) and _paths(folder, fingerprint)[1].is_file())


def prepare(folder: Path, manifest: Manifest, base: Base, max_rank: int) -> Conversion:
    """Makes the normal form over the base as it is served and stores it beside the files; durable on return.

    Raises InvalidAdapter where it would not be within 1e-3 of the adapter, OSError when the disk fails.
    """
    weights, error = make(folder, manifest, base, max_rank)
    ranks = [change.low_rank.rank for change in weights.linears.values() if change.low_rank is not None]
    conversion = Conversion(max(ranks, default=0), error, base.shapes.fingerprint)
    _write_prepared(folder, manifest.digest, weights, conversion)
    return conversion


def updates_of(folder: Path, manifest: Manifest, base: Base, max_rank: int) -> Updates | None:
    """The updates as they are, to be compared with what is served; None where none was turned into a pair."""
    opened = _open(folder, manifest, base.shapes, max_rank, read_proven)
    if opened.config.kind.name not in CONVERTED:
        return None
    setting = Setting(opened.config, opened.plan, base.shapes, max_rank, base, keeps_whole=True)
    return Updates.of(setting, opened.tensors)


def make(folder: Path, manifest: Manifest, base: Base, max_rank: int) -> tuple[AdapterWeights, float]:
    """The normal form over this base and the largest relative error of an update; nothing is stored."""
    opened = _open(folder, manifest, base.shapes, max_rank, read_proven)
    setting = Setting(opened.config, opened.plan, base.shapes, max_rank, base)
    with torch.inference_mode():
        return assemble(setting, opened.tensors)


def _open(folder: Path, manifest: Manifest, base: BaseShapes, max_rank: int, read: Read) -> Opened:
    """The bytes that are hashed are the bytes that are read: nothing is read twice."""
    contents = {spec.name: read(folder / spec.name, spec) for spec in manifest.files}
    problems: list[str] = []
    config = parse_config(bytes(contents[CONFIG_NAME]), max_rank)
    plan = make_plan(config, base, problems)
    infos = _infos(contents[WEIGHTS_NAME], config)
    # The digest covers the files and not the manifest, so what that says is found again.
    found = manifest_of(manifest.files, config, plan, infos, base)
    if problems or found != _of_files(manifest):
        raise InvalidAdapter([f"the {_WHOLE}"])
    known = {**plan.optional, **plan.claims}
    fits = set(infos) <= set(known) and set(plan.claims) <= set(infos)
    if not fits or not all(known[name].fits(info.shape) for name, info in infos.items()):
        raise InvalidAdapter(["it does not fit this base; the adapter was made for another one"])
    tensors = {name: _tensor(contents[WEIGHTS_NAME], info) for name, info in infos.items()}
    return Opened(config, plan, tensors)


def _of_files(manifest: Manifest) -> Manifest:
    """Without what came with the upload or was found by its preparation."""
    return replace(manifest, tokenizer_files=(), story=None, mismatches=(), conversion=None)


def _infos(weights: memoryview, config: AdapterConfig) -> dict[str, TensorInfo]:
    header = bytes(weights[: 8 + int.from_bytes(weights[:8], "little")])
    return parse_header(header, len(weights), config.kind.max_dims, config.kind.may_be_empty)


def _tensor(weights: memoryview, info: TensorInfo) -> Tensor:
    dtype, part = _DTYPES[info.dtype], weights[info.start : info.end]
    if not part:
        return torch.empty(info.shape, dtype=dtype)
    # The file promises no alignment.
    own = bytearray(part) if info.start % dtype.itemsize else part
    return torch.frombuffer(own, dtype=dtype).reshape(info.shape)


def _paths(folder: Path, fingerprint: str) -> tuple[Path, Path]:
    assert fingerprint.isalnum(), "an adapter is prepared for a base that has a fingerprint"
    stem = folder / PREPARED / fingerprint
    return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def _write_prepared(folder: Path, digest: str, weights: AdapterWeights, conversion: Conversion) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in flatten(weights).items()}
    content = save_tensors({name: tensor.clone() for name, tensor in tensors.items()})
    note = {
        "format": _FORMAT,
        "digest": digest,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        **asdict(conversion),
    }
    make_folder(folder / PREPARED)
    data, about = _paths(folder, conversion.base)
    # The note goes last: who finds it finds the whole of what it describes.
    replace_file(data, content)
    replace_file(about, json.dumps(note).encode())


def _read_prepared(folder: Path, manifest: Manifest, fingerprint: str, read: Read) -> AdapterWeights:
    if not is_prepared(folder, manifest, fingerprint):
        raise InvalidAdapter(["it was not prepared for the base that is served; upload it again"])
    data, about = _paths(folder, fingerprint)
    try:
        note: dict[str, Any] = json.loads(about.read_bytes())
        if note["format"] != _FORMAT or note["digest"] != manifest.digest or note["base"] != fingerprint:
            raise ValueError("it is of another adapter or base")
        content = read(data, FileSpec(data.name, int(note["size"]), str(note["sha256"])))
        return unflatten(load_tensors(bytes(content)))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidAdapter([f"what was prepared of it is damaged ({error}); upload it again"]) from error
