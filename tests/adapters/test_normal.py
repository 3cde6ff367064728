"""What PEFT writes is accepted, and its normal form computes what PEFT computes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters import BaseShapes, InvalidAdapter, inspect
from adapters.prepared import load

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)

CONFIGS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": "all-linear", "r": 3, "lora_alpha": 5},
    {"target_modules": ["q_proj"], "use_rslora": True, "r": 6, "lora_alpha": 7},
    {"target_modules": r".*\.(?:up|down)_proj", "task_type": "CAUSAL_LM"},
    {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp.*": 5}},
    {"target_modules": ["q_proj", "up_proj"], "alpha_pattern": {"layers.0.self_attn.q_proj": 3}},
    {"target_modules": ["k_proj", "o_proj"], "rank_pattern": {".*o_proj": 1}, "use_rslora": True},
    {"target_modules": ["gate_proj"], "layers_to_transform": [1]},
    {"target_modules": ["gate_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.0.*"},
    {"target_modules": ["v_proj"], "init_lora_weights": "orthogonal"},
    {"target_modules": ["v_proj"], "init_lora_weights": False, "lora_dropout": 0.1},
]


@pytest.fixture
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def save(model: Any, folder: Path) -> None:
    """PEFT's own save, with B off its initial zero."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(str(folder))


@pytest.mark.parametrize("settings", CONFIGS)
def test_the_normal_form_is_pefts_delta(
    settings: dict[str, Any], seeded: None, tiny_llama: Callable[[], Any], base: BaseShapes, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    model = get_peft_model(tiny_llama(), LoraConfig(**settings))
    save(model, tmp_path)
    manifest = inspect(tmp_path, base, max_rank=64, allow_extra=True)
    pairs = load(tmp_path, manifest, base, 64).pairs()
    assert pairs is not None
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert set(pairs) == set(layers) == set(manifest.targets)
    for name, pair in pairs.items():
        torch.testing.assert_close(pair.b @ pair.a, layers[name].get_delta_weight("default").detach())


def test_a_converted_pissa_adapter_is_taken(
    seeded: None, tiny_llama: Callable[[], Any], base: BaseShapes, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights="pissa")
    model = get_peft_model(tiny_llama(), config)
    initial, plain, converted = tmp_path / "initial", tmp_path / "plain", tmp_path / "converted"
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(str(initial))
    model.peft_config["default"].init_lora_weights = "pissa"
    model.save_pretrained(str(plain))
    model.save_pretrained(str(converted), path_initial_model_for_weight_conversion=str(initial))
    with pytest.raises(InvalidAdapter, match="path_initial_model_for_weight_conversion"):
        inspect(plain, base, 64, allow_extra=True)
    assert inspect(converted, base, 64, allow_extra=True).rank == 8


def test_the_scale_is_folded_in_before_the_cast(builder: Any, config: dict[str, Any]) -> None:
    folder = builder.folder(config | {"lora_alpha": 1.1})
    manifest = builder.manifest(folder)
    exact, half = builder.load(folder, manifest), builder.load(folder, manifest, dtype=torch.bfloat16)
    plain = builder.load(folder, builder.manifest(folder), dtype=torch.float64)
    for name, pair in half.items():
        assert pair.a.dtype == pair.b.dtype == torch.bfloat16
        assert torch.equal(pair.a, exact[name].a.bfloat16())
        assert torch.equal(pair.b, exact[name].b.bfloat16())
        assert plain[name].b.dtype == torch.float64


def test_every_flipped_byte_is_noticed(builder: Any) -> None:
    folder, rng = builder.folder(), random.Random(0)
    manifest = builder.manifest(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        good = (folder / name).read_bytes()
        for at in rng.sample(range(len(good)), 50):
            (folder / name).write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(InvalidAdapter, match="changed on disk"):
                builder.load(folder, manifest)
        for bad in (good[:-1], good + b"\0", b""):
            (folder / name).write_bytes(bad)
            with pytest.raises(InvalidAdapter, match="changed on disk"):
                builder.load(folder, manifest)
        (folder / name).write_bytes(good)
    assert builder.load(folder, manifest)


def test_a_link_or_nothing_in_a_files_place(builder: Any) -> None:
    folder, weights = builder.folder(), "adapter_model.safetensors"
    manifest = builder.manifest(folder)
    (folder / weights).rename(folder.parent / weights)
    with pytest.raises(InvalidAdapter, match="cannot be opened"):
        builder.load(folder, manifest)
    (folder / weights).symlink_to(folder.parent / weights)
    with pytest.raises(InvalidAdapter, match="cannot be opened"):
        builder.load(folder, manifest)
