"""One merge, from folders to a folder that has been compared with what it stands for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.merge.changes import Changes
from adapters.merge.checkpoint import Checkpoint
from adapters.merge.errors import MergeRefused
from adapters.merge.folder import copy_texts, draft
from adapters.merge.gguf import Converter
from adapters.merge.recipes import Trained, check_base, find_recipe
from adapters.merge.shards import digests
from adapters.merge.sources import Source, open_source, pairs_of, read_changes, sum_of
from adapters.merge.stream import Written, write_merged
from training.blend import blend
from training.config import DataConfig
from training.data import read_rows
from training.encode import Example, encode_rows
from training.files import STORY_FILE
from training.merge_config import MergeConfig, factors
from training.merge_gate import Verdict, judge, random_rows, see
from training.merge_models import adapted, dense_model, grown
from training.merge_peft import is_for_peft, open_for_peft, peft_changes
from training.merge_report import REPORT_NAME, Member, MergeReport, storage_losses
from training.model import load_tokenizer
from training.quiet import quiet

Report = Callable[[int, int], None]


class MergeFailed(MergeRefused):
    """The merged model is not what it should be; the report says in which figures."""


@dataclass(frozen=True)
class _Merge:
    """What every part of one merge needs."""

    config: MergeConfig
    trained: Trained
    sources: tuple[Source, ...]
    factors: tuple[float, ...]
    changes: Changes

    @property
    def stored_as(self) -> str:
        return "bf16" if self.config.to == "gguf" else self.config.to


def run(base: Path, adapters: Sequence[Path], config: MergeConfig, report: Report) -> MergeReport:
    """Merges into `config.out`, which appears only once it has passed.

    Raises AdapterError or TrainingError. What has failed leaves its report beside `out`.
    """
    began = time.monotonic()
    converter = Converter.find(config.llama_cpp) if config.to == "gguf" else None
    merge = _prepare(base, adapters, config)
    with quiet(), draft(config.out, config.overwrite) as folder:
        written = write_merged(
            folder, merge.trained, merge.changes, merge.stored_as, config.shard_bytes, report
        )
        copy_texts(folder, base, adapters[0])
        verdict = _verdict(merge, folder) if config.gate else None
        made = _report(merge, written, verdict, time.monotonic() - began)
        text = made.to_json(digests(folder))
        failed = config.out.with_name(f"{config.out.name}.{REPORT_NAME}")
        if not made.passed:
            failed.write_text(text, encoding="utf-8")
            raise MergeFailed(_sentence(made, failed))
        if converter is not None:
            converter.convert(folder)
            text = made.to_json(digests(folder))
        (folder / REPORT_NAME).write_text(text, encoding="utf-8")
        failed.unlink(missing_ok=True)
    return made


def _prepare(base: Path, adapters: Sequence[Path], config: MergeConfig) -> _Merge:
    checkpoint = Checkpoint(base)
    shapes = checkpoint.shapes()
    sources = tuple(
        open_for_peft(folder) if is_for_peft(folder) else open_source(folder, shapes) for folder in adapters
    )
    recipes = {find_recipe(config.trained_on, _story(source), checkpoint) for source in sources}
    if len(recipes) > 1:
        raise MergeRefused(
            f"the adapters were trained on bases in {' and '.join(sorted(recipes))}: none fits them all"
        )
    recipe = recipes.pop()
    for source in sources:
        check_base(_story(source), checkpoint, recipe)
    dtype = None if config.trained_dtype == "auto" else getattr(torch, config.trained_dtype)
    trained = Trained(checkpoint, recipe, dtype)
    weights = tuple(factors(config, len(sources)))
    return _Merge(config, trained, sources, weights, _changes(config, trained, sources, weights))


def _changes(
    config: MergeConfig, trained: Trained, sources: Sequence[Source], weights: Sequence[float]
) -> Changes:
    by_peft = [source for source in sources if source.manifest is None]
    if by_peft and (len(sources) > 1 or weights[0] != 1):
        raise MergeRefused(f"a {by_peft[0].kind} adapter is merged alone and with weight 1")
    if by_peft:
        return peft_changes(by_peft[0], trained)
    adapters = [read_changes(source, trained) for source in sources]
    if config.blend != "sum":
        pairs = [pairs_of(adapter) for adapter in adapters]
        return blend(pairs, weights, config.blend, config.density, config.seed)
    if len(adapters) == 1 and weights[0] == 1:
        return Changes(adapters[0])
    return sum_of(adapters, weights)


def _story(source: Source) -> dict[str, Any] | None:
    """The manifest of the adapter's trainer; of this project's own trainer also its notes on the run."""
    notes = source.folder / STORY_FILE
    if source.story is not None or not notes.is_file():
        return source.story
    try:
        return {"quantization": json.loads(notes.read_text(encoding="utf-8"))["config"]["quantization"]}
    except (ValueError, KeyError, TypeError):
        return None


def _verdict(merge: _Merge, folder: Path) -> Verdict:
    """Three models, one after another: one stands in memory at a time."""
    rows, pad = _rows(merge, folder)
    model = grown(dense_model(merge.trained), merge.sources)
    # Before PEFT is laid over it: to switch an adapter with biases off does not bring the base back.
    base = see(model, rows, pad)
    if merge.config.blend == "sum":
        model = adapted(model, merge.sources, merge.factors)
    else:
        model = dense_model(merge.trained, merge.changes)
    live = see(model, rows, pad)
    del model
    merged = see(dense_model(Trained(Checkpoint(folder), "none")), rows, pad)
    return judge(live, merged, base)


def _rows(merge: _Merge, folder: Path) -> tuple[list[Example], int]:
    config = merge.config
    if config.eval is None:
        return random_rows(merge.trained.checkpoint.shapes().vocab_size, config.seed), 0
    tokenizer = load_tokenizer(str(folder))
    rows = encode_rows(read_rows(config.eval), tokenizer, DataConfig(too_long="drop"), config.eval)
    return rows, int(tokenizer.pad_token_id)


def _report(merge: _Merge, written: Written, verdict: Verdict | None, seconds: float) -> MergeReport:
    config = merge.config
    faults = verdict.faults() if verdict else []
    losses = storage_losses(written.survivals, config.min_recovered, config.max_unchanged)
    losses += verdict.losses(config.min_recovered) if verdict and not faults else []
    return MergeReport(
        base=str(merge.trained.checkpoint.folder),
        adapters=tuple(
            Member(str(source.folder), source.digest, source.kind, factor)
            for source, factor in zip(merge.sources, merge.factors, strict=True)
        ),
        blend=config.blend,
        trained_on=merge.trained.recipe,
        target=config.to,
        untied=written.untied,
        vocab_size=written.vocab_size,
        linears=written.survivals,
        gate=verdict,
        faults=tuple(faults),
        losses=tuple(losses),
        passed=not faults and (config.allow_lossy or not losses),
        seconds=round(seconds, 3),
    )


def _sentence(report: MergeReport, path: Path) -> str:
    advice = "write bf16, fp16 or fp32 instead" + ("" if report.faults else ", or add --allow-lossy")
    reasons = "; ".join((*report.faults, *report.losses))
    return f"The merged model was not kept: {reasons}. The figures are in {path}; {advice}"
