"""The device's memory at start: what is told, what is refused, what becomes of each option."""

from typing import Any

import pytest
import torch

from server.engine import memory
from server.engine.build import build_engine
from server.engine.config import EngineConfig
from server.engine.memory import plan_memory
from server.model.decoder import Decoder
from server.model.loader import load_decoder

GIB = 1 << 30


@pytest.fixture
def decoder(zoo: Any) -> Decoder:
    return load_decoder(zoo.base, "none", torch.float32, torch.device("cpu"))


def test_the_table_names_every_part(zoo: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    build_engine(EngineConfig(base=str(zoo.base), threads=1, cache_tokens=4096))
    (table,) = [record.getMessage() for record in caplog.records if "KV cache" in record.getMessage()]
    lines = table.splitlines()
    # On a CPU, adapters are used where they are and steps take what they need.
    assert [line.split()[0] for line in lines] == ["memory", "base", "KV"]
    assert "MiB" in lines[1] and "4,096 tokens" in lines[2]


def test_the_base_is_counted_byte_for_byte_and_shared_tensors_once(zoo: Any, decoder: Decoder) -> None:
    plan = plan_memory(EngineConfig(base=str(zoo.base)), decoder, 256, 512)
    # Embedding and head are one; rotary tables are the decoder's own.
    weights = sum(p.numel() for p in zoo.oracle("").parameters())
    tables = 2 * 256 * decoder.config.head_dim // 2
    assert decoder.lm_head.weight.weight is decoder.embedding
    assert plan.base == 4 * (weights + tables)


class Device:
    """A CUDA device that has so many bytes free, as far as the plan can tell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)


def test_the_cache_takes_what_adapters_and_workspace_leave(
    zoo: Any, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Device(monkeypatch, 40 * GIB)
    config = EngineConfig(base=str(zoo.base), adapter_memory=10 * GIB)
    plan = plan_memory(config, decoder, 256, 4096)
    assert plan.adapters == 10 * GIB and plan.total == 80 * GIB
    assert plan.workspace > memory.LIBRARIES_BYTES
    assert [line.split()[0] for line in plan.table()] == ["memory", "base", "adapters", "workspace", "KV"]
    left = (40 * GIB - plan.adapters - plan.workspace) * memory.CACHE_SHARE
    assert left - plan.block_size * plan.token_bytes < plan.cache <= left
    more = plan_memory(config, decoder, 256, 8192)
    assert more.workspace > plan.workspace and more.cache < plan.cache


@pytest.mark.parametrize(
    ("options", "ranks"),
    [
        ({"adapter_slots": 64}, 64 * 16),
        ({"adapter_slots": 2, "max_rank": 64}, 64),
        ({"max_rank": 2048}, 2048),
    ],
)
def test_adapters_get_every_slot_at_rank_16_or_one_at_the_highest(
    zoo: Any, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, options: dict[str, int], ranks: int
) -> None:
    Device(monkeypatch, 40 * GIB)
    plan = plan_memory(EngineConfig(base=str(zoo.base), **options), decoder, 256, 4096)
    entries = sum(rows + width for rows, width in decoder.config.linear_shapes().values())
    assert plan.adapters == ranks * entries * 4
    Device(monkeypatch, 1000)
    assert plan_memory(EngineConfig(base="x", cache_tokens=64), decoder, 256, 4096).adapters == 250


def test_a_device_without_room_for_a_cache_says_what_to_do(
    zoo: Any, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Device(monkeypatch, 1 * GIB)
    with pytest.raises(ValueError, match="no memory is left on a GPU.*--adapter-memory less, or quantize"):
        plan_memory(EngineConfig(base=str(zoo.base)), decoder, 256, 4096)
