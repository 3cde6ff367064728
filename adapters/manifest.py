"""What is known of an adapter once it passed the check, and the digest that is its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from adapters.files import FileSpec as FileSpec
from adapters.shapes import BaseShapes as BaseShapes
from adapters.shapes import Target

FORMAT_TAG = "lorikeet-adapter-v1"


@dataclass(frozen=True)
class Conversion:
    """How a prepared adapter's normal form came about.

    `rank` is the highest that is served; `error` the largest relative error of an update, in the Frobenius
    norm: 0 where the form is exact. `base` is the fingerprint of the base that it was made for.
    `logit_error` is how far the logits are from the adapter's own, relative, over a few fixed tokens; None
    where nothing was converted or there was no time to measure it.
    """

    rank: int
    error: float
    base: str
    logit_error: float | None = None


@dataclass(frozen=True)
class Manifest:
    """A checked adapter.

    `rank` is the highest of its targets; `dtype` is the tensors' safetensors name, or "mixed";
    `base_model_name` is what the trainer wrote and is never looked up. An adapter that is not `direct` is
    served from what `prepared` made of it for one base. `num_virtual_tokens` stand before every prompt;
    `top_token` is the highest token id that it has rows for beyond the base's vocabulary, or -1.
    `tokenizer_files` are those of its own that it brought. `story` is what its trainer told of it, and
    `mismatches` what of that is not so here.
    """

    digest: str
    files: tuple[FileSpec, ...]
    kind: str
    rank: int
    num_parameters: int
    targets: dict[str, Target]
    base_model_name: str
    dtype: str
    direct: bool = True
    num_virtual_tokens: int = 0
    top_token: int = -1
    tokenizer_files: tuple[str, ...] = ()
    story: dict[str, Any] | None = None
    mismatches: tuple[str, ...] = ()
    conversion: Conversion | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def to_json(self) -> str:
        """One JSON object; scales survive exactly."""
        fields: dict[str, Any] = {key: getattr(self, key) for key in self.__dataclass_fields__}
        fields["files"] = [asdict(file) for file in self.files]
        fields["targets"] = {name: [target.rank, target.scale] for name, target in self.targets.items()}
        fields["conversion"] = None if self.conversion is None else asdict(self.conversion)
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
            if fields.get("conversion") is not None:
                fields["conversion"] = Conversion(**fields["conversion"])
            for name in ("tokenizer_files", "mismatches"):
                fields[name] = tuple(fields.get(name, ()))
            return Manifest(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("the manifest lacks a field or has a wrong one") from error


def content_digest(files: Iterable[FileSpec]) -> str:
    """Hex sha256 over the format tag and one `name size sha256` line per file, sorted by name."""
    lines = sorted(f"{file.name} {file.size} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join([f"{FORMAT_TAG}\n", *lines]).encode()).hexdigest()
