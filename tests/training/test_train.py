from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from training.artifact import check_servable
from training.config import DataConfig, LoraSection, TrainConfig
from training.data import read_rows, split_rows
from training.encode import encode_rows
from training.errors import Diverged, InvalidBase, InvalidConfig, InvalidData, UnservableAdapter
from training.evaluate import compare, held_out_loss
from training.methods.peft_configs import lora_config
from training.model import adapt, load_adapted, load_base
from training.progress import Progress, bars
from training.train import run

LINEARS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_a_fresh_adapter_is_the_base_bit_for_bit(config: TrainConfig) -> None:
    ids = torch.arange(10, 42).view(2, 16)
    with torch.no_grad():
        alone = load_base(config.base)(input_ids=ids).logits
        adapted = adapt(load_base(config.base), config).eval()(input_ids=ids).logits
    assert torch.equal(alone, adapted)


def test_a_run_lowers_the_loss_and_leaves_a_folder_that_peft_loads(held_out: TrainConfig) -> None:
    seen: list[Progress] = []
    result = run(replace(held_out, optim=replace(held_out.optim, eval_every=3)), seen.append)
    losses = [line["loss"] for line in metrics(result.output) if "loss" in line]
    assert losses[-1] < losses[0]
    assert (result.num_steps, result.num_train_rows, result.num_eval_rows) == (6, 12, 4)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].num_steps == 6 and seen[-1].loss is not None

    saved = json.loads((result.output / "adapter_config.json").read_text())
    assert sorted(saved["target_modules"]) == LINEARS
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(held_out.base), result.output)
    tokenizer = AutoTokenizer.from_pretrained(held_out.base)
    rows = split_rows(read_rows(held_out.data.train), 0.25, held_out.seed)[1]
    examples = encode_rows(rows, tokenizer, held_out.data, held_out.data.train)
    assert held_out_loss(loaded, examples, tokenizer.pad_token_id) == pytest.approx(
        result.eval_loss, abs=1e-5
    )


def test_the_folder_tells_how_it_was_made(held_out: TrainConfig, capfd: pytest.CaptureFixture[str]) -> None:
    result = run(held_out)
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in result.output.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "curves.png",
        "lorikeet_manifest.json",
        "metrics.jsonl",
        "training.json",
    ]
    story = json.loads((result.output / "training.json").read_text())
    assert story["config"]["lora"]["rank"] == 4
    assert story["data_sha256"]["train"] == hashlib.sha256(held_out.data.train.read_bytes()).hexdigest()
    assert story["metrics"]["eval_loss"] == result.eval_loss
    assert story["versions"]["torch"] == torch.__version__
    assert "library_name: peft" in (result.output / "README.md").read_text()
    assert [line["step"] for line in metrics(result.output) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert metrics(result.output)[-1]["eval_loss"] == result.eval_loss


def test_the_same_seed_gives_the_same_bytes(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, optim=replace(config.optim, max_steps=3), lora=replace(config.lora, dropout=0.1))
    first, again, other = (
        digest(run(replace(config, output=tmp_path / name, seed=seed)).output)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again != other


def test_accumulation_weighs_every_token_the_same(config: TrainConfig, tmp_path: Path) -> None:
    whole = run(replace(config, output=tmp_path / "whole")).output
    halves = replace(config.optim, batch_size=4, accumulation=2)
    parts = run(replace(config, output=tmp_path / "parts", optim=halves)).output
    mine, other = (load_file(folder / "adapter_model.safetensors") for folder in (whole, parts))
    for name, weight in mine.items():
        assert torch.allclose(weight, other[name], atol=1e-3), name


def test_qlora_trains_on_four_bit_codes(config: TrainConfig) -> None:
    config = replace(config, quantization="nf4", optim=replace(config.optim, max_steps=4))
    result = run(config)
    losses = [line["loss"] for line in metrics(result.output) if "loss" in line]
    assert losses[-1] < losses[0]
    loaded = load_adapted(config.base, result.output, quantization="nf4")
    assert type(loaded.get_base_model().model.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_checkpointing_still_reaches_the_adapter(config: TrainConfig, quantization: str) -> None:
    optim = replace(config.optim, max_steps=1)
    run(replace(config, gradient_checkpointing=True, quantization=quantization, optim=optim))


def test_early_stopping_keeps_the_best_weights(held_out: TrainConfig) -> None:
    wild = replace(
        held_out.optim, learning_rate=0.5, schedule="constant", max_steps=40, eval_every=1, patience=2
    )
    result = run(replace(held_out, optim=wild))
    course = [line["eval_loss"] for line in metrics(result.output) if "eval_loss" in line]
    assert result.num_steps < 40
    assert result.eval_loss == pytest.approx(min(course), abs=1e-5)
    assert not (result.output / "checkpoints").exists()


def test_lora_settings_reach_peft(config: TrainConfig) -> None:
    lora = LoraSection(
        rank=4,
        targets=("q_proj", "up_proj"),
        rslora=True,
        rank_pattern={"up_proj": 2},
        alpha_pattern={"up_proj": 3.0},
        layers_to_transform=(1,),
    )
    result = run(replace(config, lora=lora, optim=replace(config.optim, max_steps=2)))
    weights = load_file(result.output / "adapter_model.safetensors")
    assert len(weights) == 4
    ranks = {name.split(".")[-3]: weight.shape[0] for name, weight in weights.items() if "lora_A" in name}
    assert ranks == {"q_proj": 4, "up_proj": 2}
    assert all(".layers.1." in name for name in weights)


def test_targets_and_layers_that_the_base_lacks(config: TrainConfig) -> None:
    model = load_base(config.base)
    with pytest.raises(InvalidConfig, match="no linear lm_head; it has down_proj, gate_proj"):
        lora_config(model, LoraSection(targets=("lm_head",)))
    with pytest.raises(InvalidConfig, match="layers 0 to 1"):
        adapt(model, replace(config, lora=LoraSection(layers_to_transform=(2,))))
    with pytest.raises(InvalidBase):
        run(replace(config, base=str(config.output.parent)))


def test_a_run_that_goes_nowhere_or_everywhere_is_an_error(config: TrainConfig) -> None:
    with pytest.raises(Diverged, match="no weight of the adapter moved"):
        run(replace(config, optim=replace(config.optim, learning_rate=0.0, max_steps=1)))
    with pytest.raises(Diverged, match="lower optim.learning_rate"):
        run(replace(config, optim=replace(config.optim, learning_rate=1e30)))
    assert not config.output.exists()
    assert not list(config.output.parent.glob(".*partial"))


def test_an_output_folder_is_replaced_only_when_asked(config: TrainConfig) -> None:
    config = replace(config, optim=replace(config.optim, max_steps=1))
    config.output.mkdir()
    (config.output / "precious").touch()
    with pytest.raises(InvalidConfig, match="not empty; name another folder or set overwrite"):
        run(config)
    assert (config.output / "precious").exists()
    run(replace(config, overwrite=True))
    assert not (config.output / "precious").exists()
    with pytest.raises(InvalidConfig, match="is a file"):
        run(replace(config, output=config.data.train))


def test_an_output_that_holds_what_the_run_reads_is_never_replaced(config: TrainConfig) -> None:
    for output, held in (
        (config.data.train.parent, "data.train"),
        (Path(config.base), "base"),
        (Path(config.base).parent, "base"),
    ):
        with pytest.raises(InvalidConfig, match=f"holds {held} of this run: name a folder of its own"):
            run(replace(config, output=output, overwrite=True))
    assert config.data.train.is_file() and (Path(config.base) / "config.json").is_file()


def test_one_row_cannot_be_split(held_out: TrainConfig) -> None:
    held_out.data.train.write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(InvalidData, match="one row cannot be split"):
        run(held_out)


def test_an_adapter_of_another_base_is_not_servable(config: TrainConfig) -> None:
    result = run(replace(config, optim=replace(config.optim, max_steps=1)))
    with pytest.raises(UnservableAdapter, match="the server would refuse"):
        check_servable(result.output, {"model.layers.0.mlp.up_proj": (3, 5)})


def test_compare_scores_base_and_adapter_on_the_same_rows(config: TrainConfig) -> None:
    optim = replace(config.optim, max_steps=60, learning_rate=2e-2)
    result = run(replace(config, optim=optim))
    data = DataConfig(train=config.data.train, eval=config.data.train, max_length=64)
    scores = compare(config.base, result.output, data)
    assert scores.base.accuracy == 0.0 and scores.base.num_rows == 16
    assert scores.adapter.accuracy > 0.5
    assert scores.adapter.loss < scores.base.loss


def test_bars_draw_each_phase() -> None:
    drawn = io.StringIO()
    with bars(Console(file=drawn, width=100)) as report:
        report(Progress("legal", 1, 2, loss=0.5))
        report(Progress("legal", 2, 2, loss=0.25, eval_loss=0.125))
    assert "legal" in drawn.getvalue() and "eval 0.125" in drawn.getvalue()


def test_set_seed_is_what_decides_the_start(config: TrainConfig) -> None:
    starts = []
    for _ in range(2):
        set_seed(5)
        starts.append(adapt(load_base(config.base), config).state_dict())
    assert all(torch.equal(weight, starts[1][name]) for name, weight in starts[0].items())
