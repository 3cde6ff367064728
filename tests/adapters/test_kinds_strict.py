"""The checks are as strict for every kind as for LoRA: each tensor is called for, whole, finite and right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters import BaseShapes, InvalidAdapter, Sandbox, inspect
from tests.adapters.small import MAX_RANK, VOCAB, take, tiny
from tests.dense import base_of
from tests.peft_kinds import KINDS, PROMPT_KINDS, RAW_KINDS, UNSERVED_KINDS

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
SERVED = [kind for kind in KINDS if kind not in {**RAW_KINDS, **UNSERVED_KINDS}]
# PEFT saves the base's own tables along, and tensors that a pruned linear has left are empty.
OPTIONAL = ("base_layer.weight", "embed_tokens.weight", "lm_head.weight")
Tensors = dict[str, Tensor]
Edit = Callable[[str, Tensors], None]


@pytest.fixture(scope="module")
def shapes() -> BaseShapes:
    return base_of(tiny(bias=True)).shapes


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A built adapter of each kind, once."""
    root, built = tmp_path_factory.mktemp("kinds"), {}

    def folder(kind: str) -> Path:
        if kind not in built:
            with torch.random.fork_rng():
                built[kind] = root / kind
                KINDS[kind](tiny(bias=True), built[kind])
        return built[kind]

    yield folder


def problems_of(folder: Path, shapes: BaseShapes) -> str:
    with pytest.raises(InvalidAdapter) as caught:
        inspect(folder, shapes, MAX_RANK)
    return "\n".join(caught.value.problems)


def changed(folder: Path, target: Path, edit: Callable[[Tensors], None]) -> Path:
    """A copy with other tensors."""
    copy = Path(shutil.copytree(folder, target))
    tensors = load_file(copy / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, copy / "adapter_model.safetensors")
    return copy


def reconfigured(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy with other settings."""
    copy = Path(shutil.copytree(folder, target))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | settings))
    return copy


def roles(tensors: Tensors) -> dict[str, str]:
    """One tensor for each role that the kind has, by ending."""
    return {name.split(".")[-2] + name.split(".")[-1]: name for name in tensors if "." in name} or {
        name: name for name in tensors
    }


def remove(name: str, tensors: Tensors) -> None:
    del tensors[name]


def poison(name: str, tensors: Tensors) -> None:
    tensors[name].view(-1)[-1] = torch.inf


def enlarge(name: str, tensors: Tensors) -> None:
    tensors[name].view(-1)[0] = 1e30


def add(name: str, tensors: Tensors) -> None:
    tensors[name] = torch.zeros(2)


def widen(name: str, tensors: Tensors) -> None:
    tensor = tensors[name]
    tensors[name] = torch.cat([tensor, tensor], dim=-1)


EDITS: dict[str, tuple[Edit, str]] = {
    "missing": (remove, "missing|holds 0 tensors"),
    "infinite": (poison, "NaN or infinity"),
    "huge": (enlarge, "too large"),
    "wide": (widen, "this base needs|1 or 2"),
}


@pytest.mark.parametrize("kind", SERVED)
def test_every_tensor_of_every_kind_is_checked(
    kind: str, folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    folder = folder_of(kind)
    for role, name in roles(load_file(folder / "adapter_model.safetensors")).items():
        for what, (edit, told) in EDITS.items():
            if what == "missing" and name.endswith(OPTIONAL) and not kind.startswith("saved"):
                continue
            bad = changed(folder, tmp_path / f"{role}-{what}", partial(edit, name))
            found = problems_of(bad, shapes)
            assert any(part in found for part in told.split("|")), (name, what, found)


@pytest.mark.parametrize("kind", SERVED)
def test_a_stranger_among_the_tensors(
    kind: str, folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    strangers = ["stranger", "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"]
    for number, name in enumerate(strangers):
        bad = changed(folder_of(kind), tmp_path / str(number), partial(add, name))
        assert f"{name}' belongs to no" in problems_of(bad, shapes)


@pytest.mark.parametrize("kind", SERVED)
def test_an_unknown_setting_of_any_kind(
    kind: str, folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    bad = reconfigured(folder_of(kind), tmp_path / "bad", a_new_setting=1)
    assert "'a_new_setting' is not a setting" in problems_of(bad, shapes)


@pytest.mark.parametrize("kind", [kind for kind in SERVED if kind not in PROMPT_KINDS])
def test_an_adapter_of_any_kind_that_matches_nothing(
    kind: str, folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    bad = reconfigured(folder_of(kind), tmp_path / "bad", target_modules=["query"])
    assert "belongs to no targeted" in problems_of(bad, shapes)


def masks(folder: Path, change: Callable[[str, list[bool]], tuple[str, list[bool]]]) -> dict[str, Any]:
    """Of a pruned AdaLoRA, each changed."""
    config = json.loads((folder / "adapter_config.json").read_text())
    return {"rank_pattern": dict(change(*item) for item in config["rank_pattern"].items())}


def test_masks_of_a_pruned_rank_are_of_that_rank_and_of_targets(
    folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    folder = folder_of("adalora_pruned")
    longer = masks(folder, lambda name, mask: (name, [*mask, False]))
    assert "flags; init_r = " in problems_of(reconfigured(folder, tmp_path / "longer", **longer), shapes)
    elsewhere = masks(folder, lambda name, mask: (f"model.{name}", mask))
    told = problems_of(reconfigured(folder, tmp_path / "elsewhere", **elsewhere), shapes)
    assert "which is no target in this base" in told


@pytest.mark.parametrize(
    ("kind", "strangers"),
    [
        ("lora", ("embed_tokens.base_layer.weight", "embed_tokens.token_adapter.base_layer.weight")),
        ("lora_head", ("lm_head.weight", "lm_head.token_adapter.base_layer.weight")),
        ("token_rows", ("embed_tokens.weight", "embed_tokens.base_layer.weight")),
        ("trainable_tokens", ("embed_tokens.weight", "embed_tokens.token_adapter.base_layer.weight")),
        ("saved_head", ("lm_head.base_layer.weight", "lm_head.token_adapter.base_layer.weight")),
    ],
)
def test_the_bases_own_table_has_one_name(
    kind: str,
    strangers: tuple[str, ...],
    folder_of: Callable[[str], Path],
    shapes: BaseShapes,
    tmp_path: Path,
) -> None:
    """PEFT reads it under no other one, so under another it would change what PEFT does not."""
    for name in strangers:
        full = f"base_model.model.{'' if name.startswith('lm_head') else 'model.'}{name}"
        bad = changed(folder_of(kind), tmp_path / name, partial(add, full))
        assert f"{full}' belongs to no" in problems_of(bad, shapes)


def test_a_magnitude_is_never_dropped(
    folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    """DoRA without its magnitude, and the magnitude without use_dora, are both no adapter."""
    dora = folder_of("dora")
    plain = reconfigured(dora, tmp_path / "plain", use_dora=False)
    assert "lora_magnitude_vector' belongs to no" in problems_of(plain, shapes)
    assert inspect(dora, shapes, MAX_RANK).kind == "dora"


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_raw_initializations_are_refused_with_the_way_out(
    kind: str, folder_of: Callable[[str], Path], shapes: BaseShapes
) -> None:
    assert "path_initial_model_for_weight_conversion" in problems_of(folder_of(kind), shapes)


def test_a_server_that_offers_no_tables_takes_none(
    folder_of: Callable[[str], Path], shapes: BaseShapes
) -> None:
    bare = BaseShapes(shapes.linears)
    for kind in ("token_rows", "trainable_tokens", "prompt_tuning", "prefix_tuning"):
        assert "does not serve adapters that change" in problems_of(folder_of(kind), bare)
    for kind in ("lora_head", "saved_norms", "saved_head"):
        assert "belongs to no" in problems_of(folder_of(kind), bare)


def test_parts_that_cannot_be_saved_whole(
    folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    bad = reconfigured(folder_of("lora"), tmp_path / "bad", modules_to_save=["score", "lm_head"])
    told = problems_of(bad, shapes)
    assert "'score', which is no embedding, head or norm" in told
    assert "lm_head.weight' is missing" in told


def test_rows_of_no_table_and_of_two_things(
    folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    bad = reconfigured(folder_of("lora"), tmp_path / "a", trainable_token_indices={"wte": [1], "": [2]})
    told = problems_of(bad, shapes)
    assert "names 'wte'" in told
    assert "names ''" in told
    twice = reconfigured(
        folder_of("lora"), tmp_path / "b", trainable_token_indices={"embed_tokens": [1], "tokens": [2]}
    )
    assert "names model.embed_tokens more than once" in problems_of(twice, shapes)


@pytest.mark.parametrize("kind", ["loha", "lokr", "hira", "miss_bat"])
def test_an_update_of_higher_rank_than_is_served_is_refused(
    kind: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(folder_of(kind), tmp_path / kind)
    with pytest.raises(InvalidAdapter, match=r"off its nearest pair of rank 2, .* merge the adapter"):
        take(copy, bias=True, max_rank=2)


@pytest.mark.parametrize("kind", ["gralora", "adalora_pruned", "added_tokens", "prefix_tuning"])
def test_the_sandbox_gives_the_same_answer(
    kind: str, folder_of: Callable[[str], Path], shapes: BaseShapes
) -> None:
    folder = folder_of(kind)
    with Sandbox() as sandbox:
        assert sandbox.inspect(folder, shapes, MAX_RANK) == inspect(folder, shapes, MAX_RANK)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("miss_mini", {"mini_r": 5}),
        ("miss_bat", {"r": 5}),
        ("miss", {"r": 17}),
        ("gralora", {"gralora_k": 5, "r": 5}),
        ("vblora", {"vector_length": 5}),
    ],
)
def test_blocks_that_do_not_fill_a_linear(
    kind: str,
    settings: dict[str, Any],
    folder_of: Callable[[str], Path],
    shapes: BaseShapes,
    tmp_path: Path,
) -> None:
    assert "cannot be cut" in problems_of(reconfigured(folder_of(kind), tmp_path / "bad", **settings), shapes)


def test_tokens_far_beyond_the_vocabulary_are_refused(
    folder_of: Callable[[str], Path], shapes: BaseShapes, tmp_path: Path
) -> None:
    far = [3, 7, VOCAB + 8192]
    rows = reconfigured(folder_of("token_rows"), tmp_path / "rows", trainable_token_indices=far)
    trained = reconfigured(folder_of("trainable_tokens"), tmp_path / "trained", token_indices=far)
    for bad in (rows, trained):
        assert "beyond the base's vocabulary" in problems_of(bad, shapes)


def test_tokens_beyond_the_vocabulary_are_told(folder_of: Callable[[str], Path], shapes: BaseShapes) -> None:
    assert inspect(folder_of("token_rows"), shapes, MAX_RANK).top_token == -1
    assert inspect(folder_of("added_tokens"), shapes, MAX_RANK).top_token >= VOCAB
    assert inspect(folder_of("prompt_tuning"), shapes, MAX_RANK).num_virtual_tokens == 5
