"""Adapters found by slot, in an arena, change linears as packs of the same adapters do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from server.engine.device_memory import Arena
from server.kernels.adjust import RowChanges
from server.kernels.attention import AttentionPlan, Chunk
from server.kernels.lora import Segment, SlotBatch
from server.kernels.tiles import CHUNK_ROWS, make_tiles
from server.model.adapter import AdapterBlob
from server.model.blob import make_blob
from server.model.decoder import Decoder, KvCache
from server.model.linears import Lora, LoraStep, SlotLora
from server.model.loader import load_decoder
from server.model.packs import changes_of, pack
from server.model.step import Step
from tests.changes import weights_of

pytest.importorskip("triton")

KINDS = ["pair", "gain", "bias", "input-of-down", "input-of-fused", "input-of-all"]
LENGTH, CPU = 3, torch.device("cpu")


@torch.inference_mode()
def logits(decoder: Decoder, lora: Lora) -> torch.Tensor:
    """Of one chunk of LENGTH tokens for the base and each adapter."""
    total = LENGTH * (len(KINDS) + 1)
    ids = torch.randint(3, 300, (total,), generator=torch.Generator().manual_seed(1))
    shape = (total, decoder.config.num_kv_heads, decoder.config.head_dim)
    cache = KvCache(*([torch.zeros(shape) for _ in decoder.layers] for _ in range(2)))
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    chunks = [Chunk(at, at + LENGTH, torch.arange(at, at + LENGTH), causal) for at in range(0, total, LENGTH)]
    positions = torch.arange(LENGTH).repeat(len(chunks))
    plan = AttentionPlan(torch.arange(total), None, chunks)
    return decoder.forward(Step(ids, positions, plan, lora, None), cache)


def slot_lora(blobs: list[AdapterBlob], decoder: Decoder) -> SlotLora:
    """Slot i + 1 is the i-th adapter's; another stood there before."""
    arena = Arena(1 << 22, len(blobs), decoder.config, 64, decoder.embedding)
    arena.memory.weights.fill_(torch.nan)
    for slot, blob in enumerate(reversed(blobs), 1):
        old = arena.place(slot, blob)
        assert old is not None
        arena.remove(old)
    for slot, blob in enumerate(blobs, 1):
        assert arena.place(slot, blob) is not None
    slots = np.repeat(np.arange(len(blobs) + 1), LENGTH)
    tiles = torch.from_numpy(make_tiles(slots, CHUNK_ROWS))
    split: dict[tuple[int, str], list[RowChanges]] = {}
    for index, blob in enumerate(blobs, 1):
        for place, changes in changes_of(blob, decoder.config).items():
            if blob.has_split_inputs and place[1] in ("qkv", "gate_up"):
                segment = Segment(index * LENGTH, (index + 1) * LENGTH, 0)
                split.setdefault(place, []).append(RowChanges(segment, changes))
    batch = SlotBatch(torch.from_numpy(slots).int(), tiles, CHUNK_ROWS)
    return SlotLora(arena.memory, batch, adjusts=True, split=split)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels on a device take no host memory")
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_slots_vectors_do_what_packs_do(family: str, bases: dict[str, Path]) -> None:
    decoder = load_decoder(bases[family], "none", torch.float32, CPU)
    blobs = [make_blob(weights_of(kind, decoder.config), decoder.config, torch.float32) for kind in KINDS]
    segments = [Segment(LENGTH * (i + 1), LENGTH * (i + 2), i) for i in range(len(blobs))]
    expected = logits(decoder, LoraStep(pack(blobs, decoder.config), segments))
    found = logits(decoder, slot_lora(blobs, decoder))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    plain = logits(decoder, LoraStep(pack([], decoder.config), []))
    for index in range(len(KINDS)):
        rows = slice(LENGTH * (index + 1), LENGTH * (index + 2))
        assert not torch.allclose(expected[rows], plain[rows], atol=1e-2), KINDS[index]
