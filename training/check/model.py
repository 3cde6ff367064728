"""What of the base is trained, and what stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from training.check.report import CheckReport

MAX_NAMED = 8


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Parameters of the base and of what is trained beside it; `untouched` are linears without an adapter.

    `pair_width` is the sum of in and out features of the adapted linears: parameters for each rank.
    """

    base_parameters: int
    trained_parameters: int
    adapted: list[str]
    untouched: list[str]
    untouched_share: float
    pair_width: int

    def facts(self) -> list[tuple[str, str]]:
        share = self.trained_parameters / self.base_parameters
        return [
            ("parameters of the base", f"{self.base_parameters:,}"),
            ("parameters trained", f"{self.trained_parameters:,} ({share:.2%})"),
            ("linears adapted", ", ".join(self.adapted) or "none"),
            (
                "linears untouched",
                f"{', '.join(self.untouched) or 'none'} ({self.untouched_share:.0%} of them)",
            ),
        ]


def model_facts(model: Any) -> ModelFacts:
    """The figures of a skeleton."""
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    total = sum(weight.numel() for weight in model.parameters())
    beside = sum(trained.values()) if hasattr(model, "peft_config") else 0
    head = model.get_output_embeddings()
    adapted, plain = _linears(model, head)
    whole = sum(plain.values()) + sum(adapted.values())
    return ModelFacts(
        base_parameters=total - beside,
        trained_parameters=sum(trained.values()),
        adapted=_last_names(adapted),
        untouched=_last_names(plain),
        untouched_share=sum(plain.values()) / max(1, whole),
        pair_width=sum(_width(part) for part in model.modules() if hasattr(part, "lora_A")),
    )


def find_untouched(facts: ModelFacts, model: Any, report: CheckReport) -> None:
    """Experts that no adapter of linears reaches, and a run that trains nothing."""
    experts = [
        name for name, weight in model.named_parameters() if weight.dim() == 3 and not weight.requires_grad
    ]
    if experts:
        text = f"{len(experts)} blocks of experts are no linears and stay as they are, {experts[0]} first"
        report.add("warning", "untouched", [text])
    if not facts.trained_parameters:
        report.add("error", "untouched", ["no parameter is trained: look at lora.targets"])


def _linears(model: Any, head: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of the base's linears by name: with an adapter, and without one."""
    adapted: dict[str, int] = {}
    plain: dict[str, int] = {}
    inside = {id(part.base_layer) for part in model.modules() if hasattr(part, "base_layer")}
    for name, part in model.named_modules():
        if hasattr(part, "base_layer"):
            adapted[name] = part.base_layer.weight.numel()
        elif (
            isinstance(part, nn.Linear)
            and part is not head
            and id(part) not in inside
            and "lora_" not in name
        ):
            (adapted if part.weight.requires_grad else plain)[name] = part.weight.numel()
    return adapted, plain


def _width(part: Any) -> int:
    return int(part.in_features + part.out_features)


def _last_names(linears: dict[str, int]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in linears})
