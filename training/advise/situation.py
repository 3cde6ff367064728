"""What somebody has who asks for advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from training.config import option

DATA = ("completions", "preferences", "ratings", "reward", "scorer")
HELD = ("none", "nf4", "int8")
LATENCY = ("usual", "lowest")


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Every field is a flag; the more of them are given, the less is assumed."""

    base: str | None = option("folder or hub id of the base; with it, memory and ranks are computed", None)
    parameters: float = option("billions of parameters, where no base is given", 8.0, least=0.001)
    rows: int = option("rows to train on (prompts, for reward and scorer)", 1000, least=1)
    row_tokens: int = option("tokens of a long row", 512, least=2)
    answer_tokens: int = option("tokens of a usual answer", 64, least=1)
    data: str = option(
        f"what a row says: {', '.join(DATA)}. Preferences are pairs of a better and a worse answer, ratings "
        "a thumb up or down, reward prompts that a program can grade, scorer prompts and a model that grades",
        "completions",
        choices=DATA,
    )
    memory: float = option("GiB of the device to train on", 80.0, least=0)
    tenants: int = option("adapters that will share the base", 1, least=1)
    latency: str = option(f"how fast an answer must come: {', '.join(LATENCY)}", "usual", choices=LATENCY)
    held: str = option(f"how the server holds the base: {', '.join(HELD)}", "nf4", choices=HELD)
    continues: bool = option("the adapter has skills already, which must stay", False)
    train: Path = option("JSONL file of the rows, for the settings that are written", Path("train.jsonl"))
    output: Path = option("folder that becomes the adapter, for the same", Path("adapter"))


def situation_problems(situation: Situation) -> Iterator[str]:
    """What is out of range, one sentence each."""
    for item in fields(situation):
        value, flag = getattr(situation, item.name), f"--{item.name.replace('_', '-')}"
        choices, least = item.metadata["choices"], item.metadata["least"]
        if choices and value not in choices:
            yield f"{flag} must be {' or '.join(choices)}, not {value}"
        if least is not None and not value >= least:
            yield f"{flag} must be at least {least}, not {value}"
    if situation.answer_tokens > situation.row_tokens:
        yield "--answer-tokens cannot be more than --row-tokens: an answer is part of its row"
