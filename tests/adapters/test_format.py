from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import BaseShapes, FileSpec, InvalidAdapter, Manifest, Target, content_digest, inspect

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def problems_of(folder: Path, base: BaseShapes) -> str:
    with pytest.raises(InvalidAdapter) as caught:
        inspect(folder, base, max_rank=64)
    return "\n".join(caught.value.problems)


def test_the_manifest_of_a_good_adapter(builder: Any, base: BaseShapes, tensors: dict[str, Any]) -> None:
    folder = builder.folder()
    manifest = inspect(folder, base, max_rank=64)
    linears = [name for name in base.linears if name.endswith(("q_proj", "v_proj"))]
    assert manifest.targets == {name: Target(4, 2.0) for name in linears}
    assert manifest.files == tuple(builder.specs(folder))
    assert manifest.digest == content_digest(manifest.files)
    assert manifest.num_parameters == sum(array.size for array in tensors.values())
    assert (manifest.kind, manifest.rank, manifest.dtype) == ("lora", 4, "F32")
    assert manifest.base_model_name == "tiny/llama"
    assert manifest.num_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_manifest_and_shapes_survive_json(builder: Any, base: BaseShapes, config: dict[str, Any]) -> None:
    manifest = builder.manifest(builder.folder(config | {"lora_alpha": 0.1, "use_rslora": True}))
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert BaseShapes.from_json(base.to_json()) == base


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '{"format": "lorikeet-adapter-v1"}'])
def test_no_other_json_is_a_manifest(text: str) -> None:
    with pytest.raises(ValueError, match=".*"):
        Manifest.from_json(text)


def test_the_digest_is_of_the_files_whatever_their_order() -> None:
    a, b = FileSpec("a", 1, "00"), FileSpec("b", 2, "11")
    expected = hashlib.sha256(b"lorikeet-adapter-v1\na 1 00\nb 2 11\n").hexdigest()
    assert content_digest([a, b]) == content_digest([b, a]) == expected


def test_half_precision_and_mixed(builder: Any, base: BaseShapes, tensors: dict[str, Any]) -> None:
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    assert builder.manifest(builder.folder(tensors=half)).dtype == "F16"
    brain = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in tensors.items()}
    assert builder.manifest(builder.folder(tensors=brain)).dtype == "BF16"
    half[next(iter(half))] = next(iter(tensors.values()))
    assert builder.manifest(builder.folder(tensors=half)).dtype == "mixed"


def test_files(builder: Any, base: BaseShapes) -> None:
    folder = builder.folder()
    (folder / "notes.txt").write_text("hello")
    assert "notes.txt" in problems_of(folder, base)
    assert inspect(folder, base, 64, allow_extra=True).rank == 4
    os.unlink(folder / "adapter_config.json")
    assert "adapter_config.json is missing" in problems_of(folder, base)
    assert "no folder" in problems_of(folder / "absent", base)


def test_links_are_not_followed(builder: Any, base: BaseShapes) -> None:
    folder = builder.folder()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)
        assert f"{name} cannot be opened" in problems_of(folder, base)
        os.unlink(folder / name)
        (folder.parent / name).rename(folder / name)


def test_an_adapter_that_matches_nothing(builder: Any, base: BaseShapes, config: dict[str, Any]) -> None:
    folder = builder.folder(config | {"target_modules": ["query"]})
    assert "matches no linear" in problems_of(folder, base)


def test_tensors_and_targets_must_pair_up(
    builder: Any, base: BaseShapes, config: dict[str, Any], tensors: dict[str, Any]
) -> None:
    more = builder.folder(config | {"target_modules": ["q_proj", "v_proj", "o_proj"]})
    assert "o_proj.lora_A.weight' is missing" in problems_of(more, base)
    fewer = builder.folder(config | {"target_modules": ["q_proj"]})
    assert "v_proj.lora_A.weight' belongs to no" in problems_of(fewer, base)
    extra = builder.folder(tensors=tensors | {"../../etc/x\0": np.zeros(2, np.float32)})
    assert "belongs to no targeted linear" in problems_of(extra, base)
    lonely = {name: array for name, array in tensors.items() if name != f"{Q0}.lora_B.weight"}
    assert "lora_B.weight' is missing" in problems_of(builder.folder(tensors=lonely), base)


@pytest.mark.parametrize("name", ["lm_head", "model.layers.7.self_attn.q_proj", "model.embed_tokens"])
def test_a_linear_that_the_base_lacks(
    builder: Any, base: BaseShapes, tensors: dict[str, Any], name: str
) -> None:
    extra = {f"base_model.model.{name}.lora_{part}.weight": np.zeros((4, 4), np.float32) for part in "AB"}
    assert "belongs to no targeted linear" in problems_of(builder.folder(tensors=tensors | extra), base)


@pytest.mark.parametrize(
    ("part", "shape"), [("A", (4, 17)), ("A", (5, 16)), ("A", (16, 4)), ("B", (16, 5)), ("B", (64,))]
)
def test_shapes(
    builder: Any, base: BaseShapes, tensors: dict[str, Any], part: str, shape: tuple[int, ...]
) -> None:
    tensors[f"{Q0}.lora_{part}.weight"] = np.zeros(shape, np.float32)
    assert "this base needs" in problems_of(builder.folder(tensors=tensors), base)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_must_be_finite(
    builder: Any, base: BaseShapes, tensors: dict[str, Any], value: float
) -> None:
    tensors[f"{Q0}.lora_A.weight"][-1, -1] = value
    told = problems_of(builder.folder(tensors=tensors), base)
    assert "model.layers.0.self_attn.q_proj hold NaN or infinity" in told


def test_the_update_is_bounded(builder: Any, base: BaseShapes, tensors: dict[str, Any]) -> None:
    """By max |A| * max |B| * scale * rank, just below and just above a million."""
    target = builder.manifest(builder.folder()).targets[Q0.removeprefix("base_model.model.")]
    a, b = tensors[f"{Q0}.lora_A.weight"], tensors[f"{Q0}.lora_B.weight"]
    limit = 1e6 / (float(abs(b).max()) * target.scale * target.rank)
    a[0, 0] = 0.999 * limit
    builder.manifest(builder.folder(tensors=tensors))
    a[0, 0] = 1.001 * limit
    assert "too large" in problems_of(builder.folder(tensors=tensors), base)


@pytest.mark.parametrize("alpha", [1e8, 1e39, 1e308])
def test_a_scale_that_makes_no_numbers_of_zeros(
    builder: Any, base: BaseShapes, config: dict[str, Any], tensors: dict[str, Any], alpha: float
) -> None:
    for name in tensors:
        tensors[name] = np.zeros_like(tensors[name])
    assert "too large" in problems_of(builder.folder(config | {"lora_alpha": alpha}, tensors), base)


def test_what_is_scaled_is_bounded_as_it_is_served(
    builder: Any, base: BaseShapes, config: dict[str, Any], tensors: dict[str, Any]
) -> None:
    config |= {"lora_bias": True, "lora_alpha": 4000}
    biases = {
        name.replace("weight", "bias"): np.full(len(array), 2e3, np.float32)
        for name, array in tensors.items()
        if "lora_B" in name
    }
    assert "too large" in problems_of(builder.folder(config, tensors | biases), base)
    builder.manifest(builder.folder(config, tensors | {name: b / 10 for name, b in biases.items()}))


def test_problems_of_both_files_come_at_once(builder: Any, base: BaseShapes) -> None:
    told = problems_of(builder.raw(b"{", b"junk"), base)
    assert "adapter_config.json" in told
    assert "adapter_model.safetensors" in told


def test_the_bytes_decide_the_digest(builder: Any) -> None:
    digests = {builder.manifest(builder.folder(seed=seed)).digest for seed in (0, 1, 1)}
    assert len(digests) == 2
