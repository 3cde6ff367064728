"""One check, from a TOML file to a report. No weight is loaded and no device is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from training.base import read_base
from training.check.capacity import capacity, find_capacity, row_bits
from training.check.coding import Coded, Coding, code_rows
from training.check.data import data_facts, find_alike, find_lost, find_overlong
from training.check.ending import find_endings, find_untrained
from training.check.model import find_untouched, model_facts
from training.check.recipe import find_weakness
from training.check.report import CheckReport
from training.config import TrainConfig
from training.configfile import read_config
from training.data import Row, read_rows, split_rows
from training.errors import InvalidConfig, InvalidData, TrainingError
from training.memory.estimate import estimate, readable
from training.memory.measure import measured
from training.memory.rehearsal import Batch
from training.memory.skeleton import skeleton
from training.methods.lineage import inherited
from training.model import load_tokenizer
from training.preference.config import SFT
from training.quiet import quiet
from training.rates import base_rate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the check is to look at. `memory` is the device's GiB; `most_lost` a share of the rows.

    `measures` takes two steps on this machine, weights and all.
    """

    gpu: bool = True
    memory: float | None = None
    most_lost: float = 0.1
    num_shown: int = 3
    allowed: tuple[str, ...] = ()
    measures: bool = False


def check(path: Path, wishes: Wishes | None = None) -> CheckReport:
    """What stands for and against the run in `path`. Mistakes in it are findings, never exceptions."""
    wishes, report = wishes or Wishes(), CheckReport()
    try:
        config = read_config(path)
    except InvalidConfig as error:
        report.add("error", "config", error.problems)
        return report
    if config.task != SFT:
        report.add(
            "error", "task", [f"the check knows rows of task sft alone: run task {config.task} as it is"]
        )
        return report
    try:
        with quiet():
            _look(config, wishes, report)
    except InvalidConfig as error:
        report.add("error", "config", error.problems)
    except TrainingError as error:
        report.add("error", "base", [str(error)])
    report.allow(wishes.allowed)
    return report


def _look(config: TrainConfig, wishes: Wishes, report: CheckReport) -> None:
    rows = _read(config, report)
    tokenizer = load_tokenizer(config.base)
    coded: list[Coded] = []
    if "train" in rows:
        coded = _look_at_rows(config, rows, tokenizer, wishes, report)
    _look_at_model(inherited(config), coded, len(tokenizer), wishes, report)


def _read(config: TrainConfig, report: CheckReport) -> dict[str, list[Row]]:
    """The rows of each file that can be read, by `train` and `eval`."""
    found: dict[str, list[Row]] = {}
    for name, path in (("train", config.data.train), ("eval", config.data.eval)):
        try:
            found |= {name: read_rows(path)} if path else {}
        except InvalidData as error:
            report.add("error", "rows", [f"{error.path.name}, {problem}" for problem in error.problems])
    return found


def _look_at_rows(
    config: TrainConfig,
    rows: dict[str, list[Row]],
    tokenizer: PreTrainedTokenizerBase,
    wishes: Wishes,
    report: CheckReport,
) -> list[Coded]:
    train, held = _parted(config, rows)
    coding: Coding = code_rows(train, tokenizer, config.data)
    find_lost(coding, config.data, wishes.most_lost, report)
    find_alike(train, held, report)
    if not coding.fitting:
        return []
    structure = read_base(config.base)
    facts = data_facts(coding, held, tokenizer, wishes.num_shown)
    report.sections["data"] = facts
    positions = getattr(structure.get_text_config(), "max_position_embeddings", None)
    find_overlong(facts.longest_tokens, positions, report)
    find_endings(coding.fitting, tokenizer, structure, config.data, report)
    find_untrained(config.base, coding.fitting, tokenizer, report)
    return coding.fitting


def _parted(config: TrainConfig, rows: dict[str, list[Row]]) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, as the run will have them."""
    fraction = config.data.eval_fraction
    if fraction and len(rows["train"]) > 1:
        return split_rows(rows["train"], fraction, config.seed)
    return rows["train"], rows.get("eval", [])


def _look_at_model(
    config: TrainConfig, coded: list[Coded], vocabulary: int, wishes: Wishes, report: CheckReport
) -> None:
    model = skeleton(config, torch.float32)
    facts = model_facts(model)
    report.sections["model"] = facts
    find_untouched(facts, model, report)
    find_weakness(config, facts, base_rate(config), report)
    if coded:
        _weigh(config, coded, vocabulary, facts.pair_width, report)
        _look_at_memory(config, coded, wishes, report)


def _weigh(
    config: TrainConfig, coded: list[Coded], vocabulary: int, pair_width: int, report: CheckReport
) -> None:
    if not pair_width:
        return
    texts = [turn["content"] for one in coded for turn in one.row.messages if turn["role"] == "assistant"]
    bits = row_bits(texts, sum(one.example.num_loss_tokens for one in coded), vocabulary)
    found = capacity(bits, config.lora.rank, pair_width)
    report.sections["capacity"] = found
    find_capacity(found, report)


def _batch(longest: list[Coded]) -> Batch:
    """The longest rows together, as a run that groups rows by length may draw them."""
    lengths = {len(one.example.input_ids) for one in longest}
    counted = sum(one.example.num_loss_tokens for one in longest)
    return Batch(len(longest), max(lengths), ragged=len(lengths) > 1, counted=counted)


def _look_at_memory(config: TrainConfig, coded: list[Coded], wishes: Wishes, report: CheckReport) -> None:
    longest = sorted(coded, key=lambda one: -len(one.example.input_ids))[: config.optim.batch_size]
    found = estimate(config, _batch(longest), gpu=wishes.gpu)
    if wishes.measures:
        found = replace(found, measured=measured(config, [one.row for one in longest]))
    report.sections["memory"] = found
    if wishes.memory is not None and found.peak > wishes.memory * 2**30:
        text = f"a step needs {readable(found.peak)} and the device has {wishes.memory:g} GiB"
        report.add("error", "memory", [f"{text}: {_remedy(config)}"])


def _remedy(config: TrainConfig) -> str:
    if not config.gradient_checkpointing:
        return "set gradient_checkpointing = true"
    if config.optim.batch_size > 1:
        return "lower optim.batch_size and raise optim.accumulation"
    return "set quantization = nf4 or lower data.max_length"
