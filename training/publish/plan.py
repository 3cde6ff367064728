"""The settings of one publication."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.errors import InvalidConfig
from training.option import option


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """Where an adapter is to go, and how good it must be."""

    name: str = field(metadata={"help": "name to publish under"})
    alias: str = option("alias that becomes this version", "prod")
    against: str | None = option(
        "alias of the version to be as good as, where it is another than --alias", None
    )
    share: int = option("percent of the alias's requests that the new version gets", 100, least=1)
    margin: float = option(
        "how much worse than the current version is still taken: a share of the rows, and of its loss",
        0.0,
        least=0,
    )
    rows: int = option("held-out rows asked through the server, at most", 200, least=1)
    prompts: int = option("canary prompts whose logits are compared with the trainer's", 8, least=1)
    tokens: int = option("tokens compared in each", 8, least=1)
    tolerance: float | None = option(
        "largest difference in nats between the server's and the trainer's log probabilities; 0.001 in "
        "float32 and 0.25 in other formats when left out",
        None,
    )
    allow_base_mismatch: bool = option("publish an adapter that was trained over another base", False)

    def __post_init__(self) -> None:
        problems = [] if self.name else ["name is missing: say what the adapter is to be called"]
        if not 1 <= self.share <= 100:
            problems.append(f"share is a percentage from 1 to 100, not {self.share}")
        if min(self.rows, self.prompts, self.tokens) < 1 or self.margin < 0:
            problems.append("rows, prompts and tokens are at least 1, and margin is not below 0")
        if problems:
            raise InvalidConfig(problems)
