"""What is known of an adapter once it passed the check, and the digest that is its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from adapters.targets import Target

FORMAT_TAG = "lorikeet-adapter-v1"


@dataclass(frozen=True)
class FileSpec:
    """One file: its name, size in bytes and hex sha256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class BaseShapes:
    """The base's linears: full name such as `model.layers.0.mlp.up_proj` -> (out_features, in_features)."""

    linears: dict[str, tuple[int, int]]

    def to_json(self) -> str:
        """A JSON object of name -> [out, in]."""
        return json.dumps(self.linears)

    @staticmethod
    def from_json(text: str) -> BaseShapes:
        """Reads what `to_json` wrote."""
        return BaseShapes({name: (shape[0], shape[1]) for name, shape in json.loads(text).items()})


@dataclass(frozen=True)
class Manifest:
    """A checked adapter.

    `rank` is the highest of its targets; `dtype` is the tensors' safetensors name, or "mixed";
    `base_model_name` is what the trainer wrote and is never looked up.
    """

    digest: str
    files: tuple[FileSpec, ...]
    kind: str
    rank: int
    num_parameters: int
    targets: dict[str, Target]
    base_model_name: str
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def to_json(self) -> str:
        """One JSON object; scales survive exactly."""
        fields: dict[str, Any] = {key: getattr(self, key) for key in self.__dataclass_fields__}
        fields["files"] = [asdict(file) for file in self.files]
        fields["targets"] = {name: [target.rank, target.scale] for name, target in self.targets.items()}
        return json.dumps({"format": FORMAT_TAG, **fields})

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Reads what `to_json` wrote; raises ValueError for anything else."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT_TAG:
            raise ValueError(f"no manifest of format {FORMAT_TAG}")
        try:
            fields["files"] = tuple(FileSpec(**file) for file in fields["files"])
            fields["targets"] = {
                name: Target(rank, scale) for name, (rank, scale) in fields["targets"].items()
            }
            return Manifest(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("the manifest lacks a field or has a wrong one") from error


def content_digest(files: Iterable[FileSpec]) -> str:
    """Hex sha256 over the format tag and one `name size sha256` line per file, sorted by name."""
    lines = sorted(f"{file.name} {file.size} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join([f"{FORMAT_TAG}\n", *lines]).encode()).hexdigest()
