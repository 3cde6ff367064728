"""Settings that are known to give weak adapters."""

from __future__ import annotations

from training.check.model import ModelFacts
from training.check.report import CheckReport
from training.config import TrainConfig

# Above this a LoRA falls behind training every weight, the more the larger.
MOST_ROWS = 32
FAR = 5.0
ATTENTION = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "query_key_value"))


def find_weakness(config: TrainConfig, facts: ModelFacts, formula: float, report: CheckReport) -> None:
    """Warnings about what is trained, how fast, and by how many rows at once; `formula` is the usual rate."""
    optim, adapted = config.optim, set(facts.adapted)
    if adapted and adapted <= ATTENTION:
        text = "only attention is adapted, and MLPs at the same number of parameters learn more"
        report.add("warning", "targets", [f"{text}: leave lora.targets at all-linear"])
    rows = optim.batch_size * optim.accumulation
    if rows > MOST_ROWS:
        text = f"{rows} rows a step: LoRA loses more by large batches than training every weight does"
        report.add("warning", "batch", [f"{text}: try {MOST_ROWS} or fewer"])
    rate = optim.learning_rate
    if rate is not None and not formula / FAR <= rate <= formula * FAR:
        text = f"optim.learning_rate = {rate:g} is far from the {formula:g} usual for this base"
        report.add("warning", "rate", [f"{text}: leave it out to start from there"])
    if not (config.data.eval or config.data.eval_fraction):
        text = "no row is held out, so nobody will see when the run begins to learn by heart"
        report.add("warning", "held-out", [f"{text}: set data.eval or data.eval_fraction"])
