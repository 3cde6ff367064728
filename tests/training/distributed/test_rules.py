from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.config import KeepSection, LoraSection, TrainConfig
from training.distributed.rules import check_together, loads_on_device, resolve_storage
from training.distributed.world import FSDP, NONE, ZERO3, World
from training.errors import InvalidConfig

TWO = World(0, 2, FSDP)


def test_four_bit_codes_in_bytes_are_not_sharded(config: TrainConfig) -> None:
    bytewise = replace(config, quantization="nf4", quant_storage="uint8")
    with pytest.raises(InvalidConfig, match="quant_storage = 'uint8' cannot be sharded by fsdp: only float"):
        check_together(bytewise, TWO)
    check_together(bytewise, World(0, 2))
    for storage in ("auto", "bfloat16"):
        check_together(replace(bytewise, quant_storage=storage), TWO)


def test_storage_is_the_bases_type_where_weights_are_sharded(config: TrainConfig) -> None:
    config = replace(config, quantization="nf4")
    assert resolve_storage(config, World(), torch.bfloat16) == torch.uint8
    assert resolve_storage(config, TWO, torch.bfloat16) == torch.bfloat16
    chosen = replace(config, quant_storage="float32")
    assert resolve_storage(chosen, TWO, torch.bfloat16) == torch.float32


def test_what_only_whole_weights_can_is_refused(config: TrainConfig) -> None:
    for other in (replace(config, method="full"), replace(config, lora=LoraSection(init="pissa"))):
        with pytest.raises(InvalidConfig, match="use DDP for the others"):
            check_together(other, TWO)
        check_together(other, World(1, 2))
    held = replace(config, keep=KeepSection(rows=config.data.train, ewc=1.0))
    with pytest.raises(InvalidConfig, match="keep.ewc holds whole weights"):
        check_together(held, TWO)
    check_together(held, World(1, 2))
    for quantization, sharding in (("int8", FSDP), ("int8", ZERO3), ("nf4", ZERO3)):
        with pytest.raises(InvalidConfig, match="use FSDP with nf4, or DDP"):
            check_together(replace(config, quantization=quantization), World(0, 2, sharding))
    with pytest.raises(InvalidConfig, match="and not with DeepSpeed: use 'auto'"):
        check_together(replace(config, fast="on"), World(0, 2, ZERO3))
    for other in (replace(config, method="ia3"), replace(config, lora=LoraSection(dropout=0.1))):
        with pytest.raises(InvalidConfig, match="fast = 'on' is for LoRA without dropout"):
            check_together(replace(other, fast="on"), World())
        check_together(other, World())


@pytest.mark.parametrize(("sharding", "quantization", "loads"), [(NONE, "none", True), (FSDP, "nf4", True)])
def test_who_loads_on_the_device(config: TrainConfig, sharding: str, quantization: str, loads: bool) -> None:
    config = replace(config, quantization=quantization)
    assert loads_on_device(config, World(0, 2, sharding)) is loads
    assert not loads_on_device(replace(config, quantization="none"), TWO)
    assert not loads_on_device(config, World(0, 2, ZERO3))
