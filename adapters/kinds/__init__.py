"""The table of kinds: what PEFT calls them -> how their files are read, and why the others are refused."""

from adapters.config_keys import MERGE
from adapters.kinds.kind import Kind
from adapters.kinds.lora import ADALORA, LORA
from adapters.kinds.products import DELORA, GRALORA, LOHA, LOKR, MISS
from adapters.kinds.prompts import CARTRIDGE, P_TUNING, PREFIX_TUNING, PROMPT_TUNING
from adapters.kinds.shared import VBLORA, VERA
from adapters.kinds.tokens import TRAINABLE_TOKENS
from adapters.kinds.vectors import BEFT, IA3, LN_TUNING
from adapters.kinds.weighted import HIRA, HRA

KINDS: dict[str, Kind] = {
    "LORA": LORA,
    "ADALORA": ADALORA,
    "VERA": VERA,
    "LOHA": LOHA,
    "LOKR": LOKR,
    "MISS": MISS,
    "DELORA": DELORA,
    "GRALORA": GRALORA,
    "VBLORA": VBLORA,
    "HIRA": HIRA,
    "HRA": HRA,
    "IA3": IA3,
    "LN_TUNING": LN_TUNING,
    "BEFT": BEFT,
    "TRAINABLE_TOKENS": TRAINABLE_TOKENS,
    "PROMPT_TUNING": PROMPT_TUNING,
    "P_TUNING": P_TUNING,
    "PREFIX_TUNING": PREFIX_TUNING,
    "CARTRIDGE": CARTRIDGE,
}

_FULL_RANK = f"its update has full rank, so no low-rank pair is equal to it; {MERGE}"
_DRAWN = (
    "its frozen parts are drawn or decomposed anew on each machine, so it cannot be repeated exactly here; "
    f"convert it with peft's save_as_lora, or {MERGE}"
)
_NOT_LINEAR = (
    "it computes something that is no linear update, so it can neither be served nor merged; train LoRA"
)
_ROUTED = (
    "it chooses its weights anew for each task or token; upload the weights of one task as an adapter of "
    "its own"
)

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("OFT", "BOFT", "ROAD", "C3A", "FOURIERFT", "WAVEFT", "RANDLORA", "SHIRA", "SUPERTUNING"), _FULL_RANK
    ),
    **dict.fromkeys(("OSF", "FROD", "GLORA", "DEFT"), _FULL_RANK),
    **dict.fromkeys(("TINYLORA", "UNILORA", "PSOFT", "PVERA", "ADAMSS"), _DRAWN),
    **dict.fromkeys(("ADAPTION_PROMPT", "PEANUT", "LILY", "SHADOW"), _NOT_LINEAR),
    **dict.fromkeys(("POLY", "XLORA", "MULTITASK_PROMPT_TUNING", "CPT"), _ROUTED),
}


def refusal(peft_type: str) -> str:
    """Why an adapter of this type is not served and what to do."""
    return REFUSED.get(peft_type, f"it is not served; {MERGE} if PEFT can merge this kind")


__all__ = ["KINDS", "REFUSED", "Kind", "refusal"]
