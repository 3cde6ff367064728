"""The rules of advice, as a table: for each option, the first rule that applies decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.advise.figures import Figures
from training.advise.situation import Situation

# Fewer rows than this say less than they would as examples in a prompt.
FEW_ROWS = 50
SERVING = "serving"


@dataclass(frozen=True, slots=True)
class Case:
    """A situation with what follows from it."""

    asked: Situation
    found: Figures


Test = Callable[[Case], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """Gives `option` (its dotted name in a run's TOML, or `serving`) a value where `when` holds.

    `value` may be computed; `why` may name fields of the situation and the figures in braces.
    """

    name: str
    option: str
    value: Any
    why: str
    when: Test = lambda case: True


def _all_weights_pay(case: Case) -> bool:
    asked, found = case.asked, case.found
    roomy = asked.memory >= found.full_memory * 1.2
    return asked.tenants == 1 and asked.data == "completions" and not found.holds and roomy


# Data that is learned by imitation in the end: whose loss tells when to stop.
IMITATED = ("completions", "scorer")
RULES: tuple[Rule, ...] = (
    Rule(
        "pairs-need-no-reward",
        "task",
        "dpo",
        "pairs of answers train the adapter directly, with the base itself as reference: no reward model",
        lambda case: case.asked.data == "preferences",
    ),
    Rule(
        "thumbs-are-unpaired",
        "task",
        "kto",
        "single ratings make no pairs, and this loss needs none",
        lambda case: case.asked.data == "ratings",
    ),
    Rule(
        "a-program-grades",
        "task",
        "grpo",
        "a reward that a program gives can be raised by sampling, without a critic",
        lambda case: case.asked.data == "reward",
    ),
    Rule(
        "best-of-many",
        "task",
        "best_of_n",
        "samples answers to each prompt, keeps the one that the scorer likes best, and trains on those",
        lambda case: case.asked.data == "scorer",
    ),
    Rule("answers-are-there", "task", "sft", "rows with answers are learned by imitation"),
    Rule(
        "more-than-adapters-hold",
        "method",
        "full",
        "the rows hold about {bits:,} bits, more than an adapter of the highest rank, the device has "
        "{memory:g} GiB for all weights, and nobody else needs the base as it is",
        _all_weights_pay,
    ),
    Rule(
        "pairs-beside-linears",
        "method",
        "lora",
        "learns as much as training every weight while the rows hold less than the adapter, and is served "
        "beside others over one base",
    ),
    Rule(
        "one-bit-an-attempt",
        "lora.rank",
        8,
        "a graded attempt or a comparison teaches about one bit: low ranks learn as much as high ones",
        lambda case: case.asked.data in ("preferences", "ratings", "reward"),
    ),
    Rule(
        "two-bits-a-parameter",
        "lora.rank",
        lambda case: max(8, case.found.rank),
        "the rows hold about {bits:,} bits and an adapter two bits a parameter: rank {rank} is enough, and "
        "below 8 little is saved",
    ),
    Rule(
        "scale-stays",
        "lora.alpha",
        32.0,
        "at this fixed scale the best learning rate is nearly the same at any rank",
    ),
    Rule(
        "all-linears",
        "lora.targets",
        ("all-linear",),
        "MLPs hold most of what is learned; attention alone is worse at the same number of parameters",
    ),
    Rule(
        "all-weights-unquantized",
        "quantization",
        "none",
        "codes cannot be trained, only what stands beside them",
        _all_weights_pay,
    ),
    Rule(
        "train-as-served",
        "quantization",
        lambda case: case.asked.held,
        "an adapter learns to undo the rounding of the base that it was trained on, so it is trained on the "
        "base as the server holds it",
        lambda case: case.found.plan is None or case.found.plan.quantization == case.asked.held,
    ),
    Rule(
        "four-bits-fit",
        "quantization",
        "nf4",
        "held as {held} the base does not fit into {memory:g} GiB: train in four bits, and serve with "
        "--quantization nf4 as well",
    ),
    Rule(
        "recompute-to-fit",
        "gradient_checkpointing",
        True,
        "activations do not fit into {memory:g} GiB beside the base; computing them twice costs some speed",
        lambda case: case.found.plan is not None and case.found.plan.checkpointing,
    ),
    Rule("keep-activations", "gradient_checkpointing", False, "there is room for activations"),
    Rule(
        "rows-that-fit",
        "optim.batch_size",
        lambda case: case.found.plan.batch_size if case.found.plan else 1,
        "as many rows of {row_tokens} tokens at once as fit; a LoRA loses more by large batches",
    ),
    Rule(
        "eight-rows-a-step",
        "optim.accumulation",
        lambda case: 8 // (case.found.plan.batch_size if case.found.plan else 1),
        "eight rows a step in all",
    ),
    Rule(
        "go-over-few-rows-again",
        "optim.epochs",
        3.0,
        "so few rows are learned in one pass only in part; held-out rows say when to stop",
        lambda case: case.asked.rows < 5000,
    ),
    Rule("one-pass", "optim.epochs", 1.0, "so many rows teach most in the first pass"),
    Rule(
        "hold-some-out",
        "data.eval_fraction",
        0.1,
        "the loss on rows that were not trained on is what tells a good run",
        lambda case: case.asked.rows >= 2,
    ),
    Rule(
        "stop-in-time",
        "optim.patience",
        2,
        "stops when the held-out loss has not fallen twice",
        lambda case: case.asked.rows >= 2 and case.asked.data in IMITATED,
    ),
    Rule(
        "what-is-an-answer-worth",
        "preference.scorer",
        "exact",
        "the row's own answer is the measure; for another, name a function as module:function",
        lambda case: case.asked.data in ("reward", "scorer"),
    ),
    Rule(
        "one-tenant-one-model",
        SERVING,
        "as a base",
        "every weight was trained: the result is a base of its own",
        _all_weights_pay,
    ),
    Rule(
        "merge-for-latency",
        SERVING,
        "merge",
        "one tenant alone on its base, and answers must be fast: merged, the adapter costs nothing",
        lambda case: case.asked.tenants == 1 and case.asked.latency == "lowest",
    ),
    Rule(
        "hot-beside-others",
        SERVING,
        "hot",
        "adapters share the base in one batch, and change without a restart",
    ),
)
