"""Several adapters in one merge: sums are exact, TIES and DARE are PEFT's, on updates and not on factors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from adapters.merge.changes import product
from adapters.merge.errors import MergeRefused
from adapters.merge.sources import read_pairs
from tests.toys import make_adapter, make_base
from training.blend import blend
from training.merge import run
from training.merge_config import MergeConfig, problems_of

Q = "model.layers.0.self_attn.q_proj"
WEIGHTS = [0.7, 0.3]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("blend") / "base")


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of unlike ranks, scales and targets."""
    root = tmp_path_factory.mktemp("blend")
    first = make_adapter(base, root / "first", seed=1, r=8)
    second = make_adapter(base, root / "second", seed=2, r=4, use_rslora=True, target_modules=["q_proj"])
    return [first, second]


@pytest.fixture
def config(tmp_path: Path) -> MergeConfig:
    return MergeConfig(out=tmp_path / "out", to="fp32", trained_on="none", weights="0.7,0.3")


def pefts(base: Path, folders: list[Path], combination: str, **options: Any) -> Tensor:
    """The update of one linear by PEFT's own weighted adapter, at a rank that loses nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folders[0], adapter_name="a"
        )
        model.load_adapter(folders[1], adapter_name="b")
        model.add_weighted_adapter(["a", "b"], WEIGHTS, "both", combination, svd_rank=64, **options)
    delta: Tensor = model.base_model.get_submodule("model." + Q).get_delta_weight("both")
    return delta.detach()


def test_ties_is_what_peft_makes_of_the_updates(base: Path, folders: list[Path]) -> None:
    ours = blend([read_pairs(folder)[0] for folder in folders], WEIGHTS, "ties", 0.3, seed=0)
    assert ours.delta is not None
    delta = ours.delta(Q)
    assert delta is not None
    torch.testing.assert_close(delta, pefts(base, folders, "ties_svd", density=0.3), rtol=0, atol=1e-4)
    assert 0.3 < float((delta == 0).float().mean()) < 0.7


@pytest.mark.parametrize("how", ["dare-linear", "dare-ties"])
def test_dares_draw_belongs_to_the_linear_and_the_seed(how: str, folders: list[Path]) -> None:
    pairs = [read_pairs(folder)[0] for folder in folders]
    state = torch.random.get_rng_state()
    first, again, other = (blend(pairs, WEIGHTS, how, 0.5, seed).delta for seed in (1, 1, 2))
    assert first and again and other
    names = list(pairs[0])
    forwards = {name: first(name) for name in names}
    backwards = {name: again(name) for name in reversed(names)}
    assert all(torch.equal(forwards[name], backwards[name]) for name in names)  # type: ignore[arg-type]
    assert not torch.equal(forwards[Q], other(Q))  # type: ignore[arg-type]
    assert torch.equal(state, torch.random.get_rng_state()), "nobody else's randomness was touched"


def test_a_weighted_sum_is_exact_and_not_an_average_of_factors(
    base: Path, folders: list[Path], config: MergeConfig, tmp_path: Path
) -> None:
    report = run(base, folders, config, lambda done, total: None)
    assert report.gate is not None and report.gate.max_logit_error < 1e-3
    assert [member.factor for member in report.adapters] == WEIGHTS
    own, merged = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()[f"{Q}.weight"]
        for folder in (base, tmp_path / "out")
    )
    pairs = [read_pairs(folder)[0][Q] for folder in folders]
    updates = [made for pair in pairs if (made := product(pair)) is not None]
    expected = own + WEIGHTS[0] * updates[0] + WEIGHTS[1] * updates[1]
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-5)
    # PEFT's "linear" adds A to A and B to B: not even the mean of an adapter and itself is that adapter.
    wrong = pefts(base, [folders[0], folders[0]], "linear")
    assert float((wrong - updates[0]).norm() / updates[0].norm()) > 0.5
    torch.testing.assert_close(merged - own, pefts(base, folders, "svd"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", ["ties", "dare-linear"])
def test_blends_are_merged_and_checked(how: str, base: Path, folders: list[Path], tmp_path: Path) -> None:
    config = MergeConfig(out=tmp_path / "out", to="bf16", trained_on="nf4", blend=how, density=0.6)
    report = run(base, folders, config, lambda done, total: None)
    assert report.passed and report.gate is not None
    assert report.gate.recovered > 0.99


def test_only_pairs_are_added_up(
    base: Path, folders: list[Path], config: MergeConfig, tmp_path: Path
) -> None:
    dora = make_adapter(base, tmp_path / "dora", use_dora=True)
    with pytest.raises(MergeRefused, match="nothing but low-rank pairs"):
        run(base, [folders[0], dora], config, lambda done, total: None)


def test_settings_that_make_no_sense_are_named(tmp_path: Path) -> None:
    wrong = MergeConfig(blend="ties", density=0.0, weights="1,x", to="q4", shard_bytes=0, trained_on="fp8")
    text = "; ".join(problems_of(wrong, 1))
    for part in ("--out", "--to q4", "--density", "at least two", "1,x", "--shard-bytes", "--trained-on fp8"):
        assert part in text
    assert problems_of(MergeConfig(out=tmp_path, weights="1,inf"), 2) != []
    assert problems_of(MergeConfig(out=tmp_path, weights="1"), 2) != []
    assert problems_of(MergeConfig(out=tmp_path, weights="1,2", blend="dare-ties"), 2) == []
