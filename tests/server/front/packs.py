"""Adapters for the tiny base, good and bad, and what sends them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lorikeet.v1 import adapters_pb2 as pb
from tests.server.front.house import PATIENCE, House

RANK = 2
SHAPES = {"self_attn.q_proj": (16, 16), "self_attn.v_proj": (8, 16)}
CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"


def config(**changes: Any) -> bytes:
    fields = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "tiny/llama",
        **changes,
    }
    return json.dumps(fields).encode()


def tensors(seed: int = 0) -> dict[str, Any]:
    rng, made = np.random.default_rng(seed), {}
    for layer in range(2):
        for linear, (out_features, in_features) in SHAPES.items():
            for part, shape in (("A", (RANK, in_features)), ("B", (out_features, RANK))):
                name = f"base_model.model.model.layers.{layer}.{linear}.lora_{part}.weight"
                made[name] = rng.normal(0, 0.02, size=shape).astype(np.float32)
    return made


def pack(seed: int = 0, **replaced: bytes) -> dict[str, bytes]:
    return {CONFIG_NAME: config(), WEIGHTS_NAME: save(tensors(seed)), **replaced}


def header(name: str, files: dict[str, bytes], **changes: Any) -> pb.UploadRequest:
    declared = [
        pb.UploadFile(
            name=file,
            size=changes.get("size", len(data)),
            sha256=changes.get("sha256", hashlib.sha256(data).digest()),
        )
        for file, data in files.items()
    ]
    upload_id = changes.get("upload_id", "")
    return pb.UploadRequest(header=pb.UploadHeader(name=name, files=declared, upload_id=upload_id))


def chunks(files: dict[str, bytes], size: int = 1000) -> Iterator[pb.UploadRequest]:
    for file, data in files.items():
        for at in range(0, len(data), size):
            yield chunk(file, at, data[at : at + size])


def chunk(file: str, offset: int, data: bytes) -> pb.UploadRequest:
    return pb.UploadRequest(chunk=pb.UploadChunk(file=file, offset=offset, data=data))


def upload(name: str = "acme", seed: int = 0) -> list[pb.UploadRequest]:
    files = pack(seed)
    return [header(name, files), *chunks(files)]


def send(house: House, messages: Any) -> Any:
    return house.adapters.Upload(iter(messages), timeout=PATIENCE)


def staged(house: House) -> list[Path]:
    return list((house.front._config.adapter_store / "staging").iterdir())


def nothing_stored(house: House) -> bool:
    return not house.adapters.List(pb.ListAdaptersRequest()).versions and not staged(house)
