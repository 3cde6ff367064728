"""Best of n: a base answers prompts several times, a scorer picks, and the best answers are imitated.

What is imitated stays beside the adapter, in NAME.best.jsonl. A prompt's answers depend on the seed and its
line, not on the prompts before: what a run that goes on has yet to sample is what it would have sampled.
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
from training.errors import Interrupted, InvalidConfig, InvalidData
from training.methods.settle import settled
from training.model import load_adapted, load_base, load_tokenizer
from training.preference.config import SFT, PreferenceSection
from training.preference.dataset import Script, read_fitting
from training.preference.rows import Record
from training.preference.sampled import drop, take_up
from training.preference.scorers import Scorer
from training.preference.scoring import make_scorer
from training.progress import Progress, Report
from training.quiet import quiet
from training.stopping import Stop, stopped_by_sigterm
from training.workplace import check_output, threads

# A prime, so that seeds near each other share no prompt's noise.
_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True)
class Best:
    """The answer to imitate, its score, and the mean score of all answers to its prompt."""

    record: Record
    answer: str
    score: float
    mean: float


def run(config: TrainConfig, report: Report | None = None) -> TrainResult:
    """Samples, picks, and trains on what was picked.

    SIGTERM stops it after a prompt too; no prompt that was answered is asked again. Raises `InvalidConfig`,
    `InvalidData`, `InvalidBase`, `InvalidScore` and what a run of task sft raises.
    """
    config = settled(config)
    check_config(config)
    if join() != ALONE:
        raise InvalidConfig(["task best_of_n samples in one process: leave --processes out"])
    check_output(config)
    path = config.output.with_name(f"{config.output.name}.best.jsonl")
    with quiet(), threads(config.threads), stopped_by_sigterm() as stop:
        script = Script(load_tokenizer(config.base), config.data.format)
        found = _picked(config, script, stop, report)
    path.write_text("".join(_line(best, script) for best in found), encoding="utf-8")
    data = replace(config.data, train=path)
    imitation = replace(config, task=SFT, preference=PreferenceSection(), data=data)
    result = train.run(imitation, report, _origin(config, found))
    drop(config)
    return result


def _picked(config: TrainConfig, script: Script, stop: Stop, report: Report | None) -> list[Best]:
    records = read_fitting(config, script, config.data.train)
    scorer = make_scorer(config, records)
    found: list[Best] = []
    for step, (record, answers) in enumerate(_answered(config, script, records), start=1):
        found += _best(record, answers, scorer)
        if report:
            report(Progress("sample", step, len(records)))
        if stop.is_asked():
            done = f"after {step} of {len(records)} prompts"
            raise Interrupted(f"stopped by SIGTERM {done}: the same command goes on from there")
    if not found:
        raise InvalidData(config.data.train, ["the base answers no prompt with a word: nothing to imitate"])
    return found


def _answered(
    config: TrainConfig, script: Script, records: Sequence[Record]
) -> Iterator[tuple[Record, list[str]]]:
    """Each prompt with its answers; the model is loaded once one lacks them."""
    sampled, model = take_up(config), None
    for record in records:
        if record.line not in sampled.answers:
            model = _policy(config) if model is None else model
            sampled.add(record.line, _answers(model, config, script, record))
        yield record, sampled.answers[record.line]


def _policy(config: TrainConfig) -> Any:
    """What answers: the base, under the adapter to start from if there is one."""
    if config.init_from is None:
        return load_base(config.base, config.dtype, config.quantization)
    return load_adapted(config.base, config.init_from, config.dtype, config.quantization)


@torch.inference_mode()
def _answers(model: Any, config: TrainConfig, script: Script, record: Record) -> list[str]:
    """Sampled by transformers, without those that say nothing."""
    wanted, tokenizer = config.preference, script.tokenizer
    set_seed((config.seed + _STRIDE * record.line) % 2**32)
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
