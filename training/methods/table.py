"""The table of methods: their names in a TOML file, and why others are not offered."""

from __future__ import annotations

from training.methods.method import Method

_LORA = "as LoRA"
_CONVERTED = "as LoRA of twice the rank: what training added to the start"
_MODEL = "as a base of its own (`serve --base`); `extract` makes LoRA of it"

METHODS: dict[str, Method] = {
    "lora": Method("a low-rank pair beside every linear", "lora", _LORA),
    "qlora": Method(
        "LoRA over the base's NF4 codes, doubly quantized",
        "lora",
        "as LoRA, over the base in NF4",
        {"quantization": "nf4"},
    ),
    "rslora": Method(
        "LoRA whose scale falls with the root of the rank", "lora", _LORA, {"lora.rslora": True}
    ),
    "dora": Method(
        "LoRA and a magnitude for every output", "lora", "as LoRA and a gain", {"lora.dora": True}
    ),
    "lora_plus": Method(
        "LoRA whose B learns faster than its A", "lora", _LORA, suggested={"optim.lora_plus_ratio": 16.0}
    ),
    "pissa": Method("LoRA from the base's strongest directions", "lora", _CONVERTED, {"lora.init": "pissa"}),
    "olora": Method("LoRA from an orthonormal basis of the base", "lora", _CONVERTED, {"lora.init": "olora"}),
    "loftq": Method(
        "QLoRA from what the base loses in NF4",
        "lora",
        "as LoRA, over the base in NF4",
        {"lora.init": "loftq", "quantization": "nf4"},
    ),
    "eva": Method("LoRA from the directions of the data", "lora", _LORA, {"lora.init": "eva"}),
    "adalora": Method(
        "LoRA that moves rank to the linears that need it", "adalora", "as LoRA, folded exactly"
    ),
    "vera": Method("gains on random pairs that all linears share", "vera", "as LoRA, converted exactly"),
    "ia3": Method("gains on inputs and outputs of linears", "ia3", "as gains"),
    "prompt_tuning": Method("soft tokens before the prompt", "prompt_tuning", "as soft tokens"),
    "prefix_tuning": Method("keys and values before the prompt", "prefix_tuning", "as keys and values"),
    "p_tuning": Method("soft tokens made by a small encoder", "p_tuning", "as soft tokens"),
    "freeze": Method("LoRA on the last layers alone", "lora", _LORA, last_layers_only=True),
    "freeze_full": Method(
        "every weight of the last layers", "full", _MODEL, {"quantization": "none"}, last_layers_only=True
    ),
    "full": Method("every weight of the base", "full", _MODEL, {"quantization": "none"}),
}

_BOTTLENECK = (
    "bottleneck adapters come from AdapterHub's `adapters`, which needs transformers 4.57, and their "
    "nonlinear layers can be neither served beside others nor merged; use lora"
)
REFUSED: dict[str, str] = {
    **dict.fromkeys(("bottleneck", "adapterhub", "houlsby", "pfeiffer", "adapter"), _BOTTLENECK),
    **dict.fromkeys(
        ("reft", "loreft"), "it edits hidden states at chosen positions, which no server does; use lora"
    ),
}
