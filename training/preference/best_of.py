"""Best of n: a base answers prompts several times, a scorer picks, and the best answers are imitated.

What is imitated stays beside the adapter, in NAME.best.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from transformers import set_seed

from training import train
from training.artifact import Origin, TrainResult
from training.config import TrainConfig
from training.configfile import check_config
from training.distributed.world import ALONE, join
from training.errors import InvalidConfig, InvalidData
from training.methods.settle import settled
from training.model import load_adapted, load_base, load_tokenizer
from training.preference.config import SFT, PreferenceSection
from training.preference.dataset import Script, read_fitting
from training.preference.rows import Record
from training.preference.scorers import Scorer
from training.preference.scoring import make_scorer
from training.progress import Progress, Report
from training.quiet import quiet
from training.workplace import check_output, threads


@dataclass(frozen=True, slots=True)
class Best:
    """The answer to imitate, its score, and the mean score of all answers to its prompt."""

    record: Record
    answer: str
    score: float
    mean: float


def run(config: TrainConfig, report: Report | None = None) -> TrainResult:
    """Samples, picks, and trains on what was picked.

    Raises `InvalidConfig`, `InvalidData`, `InvalidBase`, `InvalidScore` and what a run of task sft raises.
    """
    config = settled(config)
    check_config(config)
    if join() != ALONE:
        raise InvalidConfig(["task best_of_n samples in one process: leave --processes out"])
    check_output(config)
    path = config.output.with_name(f"{config.output.name}.best.jsonl")
    with quiet(), threads(config.threads):
        script = Script(load_tokenizer(config.base), config.data.format)
        found = _picked(config, script, report)
    path.write_text("".join(_line(best, script) for best in found), encoding="utf-8")
    data = replace(config.data, train=path)
    imitation = replace(config, task=SFT, preference=PreferenceSection(), data=data)
    return train.run(imitation, report, _origin(config, found))


def _picked(config: TrainConfig, script: Script, report: Report | None) -> list[Best]:
    records = read_fitting(config, script, config.data.train)
    scorer = make_scorer(config, records)
    base = config.base, config.dtype, config.quantization
    model = load_adapted(base[0], config.init_from, *base[1:]) if config.init_from else load_base(*base)
    set_seed(config.seed)
    found: list[Best] = []
    for step, record in enumerate(records, start=1):
        found += _best(record, _answers(model, config, script, record), scorer)
        if report:
            report(Progress("sample", step, len(records)))
    if not found:
        raise InvalidData(config.data.train, ["the base answers no prompt with a word: nothing to imitate"])
    return found


@torch.inference_mode()
def _answers(model: Any, config: TrainConfig, script: Script, record: Record) -> list[str]:
    """Sampled by transformers, without those that say nothing."""
    wanted, tokenizer = config.preference, script.tokenizer
    ids = torch.tensor([script.ids(record)], device=model.device)
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=wanted.temperature,
        top_k=0,
        num_return_sequences=wanted.num_generations,
        max_new_tokens=wanted.max_completion_length,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts = tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
    return [text for text in texts if text.strip()]


def _best(record: Record, answers: Sequence[str], scorer: Scorer) -> Iterator[Best]:
    if answers:
        scores = scorer([record] * len(answers), answers)
        place = scores.index(max(scores))
        yield Best(record, answers[place], scores[place], fmean(scores))


def _line(best: Best, script: Script) -> str:
    """A row for task sft, with its score."""
    if script.is_chat:
        row: dict[str, Any] = {"messages": [*best.record.prompt, *script.answer(best.answer)]}
    else:
        row = {"prompt": script.prompt(best.record), "completion": best.answer}
    return json.dumps(row | {"score": best.score}) + "\n"


def _origin(config: TrainConfig, found: Sequence[Best]) -> Origin:
    """With what the picking was worth."""
    figures = {
        "sampled_score": fmean(best.mean for best in found),
        "picked_score": fmean(best.score for best in found),
    }
    return Origin(config.task, config.preference, config.data.train, figures)
