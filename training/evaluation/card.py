"""The model card: what a reader of the adapter's folder, or of `lorikeet adapters show`, wants to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from training.evaluation.curves import PICTURE
from training.methods.method import PROMPTS
from training.methods.table import METHODS
from training.preference.config import scorer_told

# Figures in the order and the words of the card.
_WORDS = {
    "train_loss": "training loss",
    "eval_loss_before": "held-out loss before training",
    "eval_loss": "held-out loss",
    "accuracy": "right answers among held-out rows",
    "f1": "F1, mean over labels",
    "answered_rows": "held-out rows answered",
    "general_loss_before": "loss on general rows before training",
    "general_loss": "loss on general rows",
    "intruders": "intruder dimensions",
    "sampled_score": "score of the sampled answers",
    "picked_score": "score of the answers that were imitated",
}

_UNITS = {
    "sft": "Losses are in nats per token of the answers.",
    "best_of_n": "Losses are in nats per token of the answers that were picked.",
    "reward": "Losses are the task's own. It scores answers and is not served.",
}
_OTHER_UNIT = "Losses are the task's own."


def card(story: Mapping[str, Any], metrics: Mapping[str, float], title: str) -> str:
    """In Markdown, with the front matter that hubs read. story: the run as `training.json` tells it."""
    config = story["config"]
    method = METHODS[config["method"]]
    kind, library, tag = (
        ("A model made from", "transformers", "full")
        if method.makes_model
        else ("An adapter for", "peft", "lora")
    )
    return f"""---
base_model: {json.dumps(config["base"])}
library_name: {library}
pipeline_tag: {"text-classification" if config["task"] == "reward" else "text-generation"}
tags: [{tag}]
---

# {title}

{kind} `{config["base"]}`: {method.summary}.

![losses over steps]({PICTURE})

| measured | |
|---|---|
{_table({words: _figure(metrics[key]) for key, words in _WORDS.items() if key in metrics})}

{_UNITS.get(config["task"], _OTHER_UNIT)}

| made with | |
|---|---|
{_table(_ingredients(story))}

`training.json` has the whole config and the versions of the libraries; `metrics.jsonl` has the course of the
run; `lorikeet_manifest.json` is what a server checks.
"""


def _ingredients(story: Mapping[str, Any]) -> dict[str, str]:
    config, made = story["config"], story["metrics"]
    optim = config["optim"]
    # A bar would end the cell.
    scorer = scorer_told(config["preference"]).replace("|", "\\|")
    digests = {f"sha256 of {name} rows": f"`{digest}`" for name, digest in story["data_sha256"].items()}
    return {
        "task": config["task"],
        **({"scorer": f"`{scorer}`"} if scorer else {}),
        "method": config["method"],
        **_shape(config),
        "base in training": config["quantization"],
        "rows (train, held out)": f"{made['num_train_rows']}, {made['num_eval_rows']}",
        "learning rate, schedule": f"{optim['learning_rate']:g}, {optim['schedule']}",
        "batch size, accumulation, steps": (
            f"{optim['batch_size']}, {optim['accumulation']}, {made['num_steps']}"
        ),
        "seed": str(config["seed"]),
        **digests,
    }


def _shape(config: Mapping[str, Any]) -> dict[str, str]:
    family, lora = METHODS[config["method"]].family, config["lora"]
    if family in PROMPTS:
        return {"virtual tokens": str(config["prompt"]["tokens"])}
    if family in ("ia3", "full"):
        return {"rank": "none"}
    return {"rank, alpha, dropout": f"{lora['rank']}, {lora['alpha']:g}, {lora['dropout']:g}"}


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _figure(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) >= 1 else f"{value:.4f}"
