"""What was published about training with LoRA, and what would bear it out here."""

from __future__ import annotations

from loadtests.claims.verdicts import Claim, Span

REGRET = "LoRA Without Regret"
QLORA = "QLoRA (arXiv 2305.14314)"
ARTICLE = "introductory articles"
# Differences of losses count from two standard errors of the paired seeds on.
CLEAR, OPPOSITE = Span(least=2), Span(most=-2)
ERRORS = "standard errors"


def size_of(size: str, kind: str, claimed: float) -> Claim:
    """A table's weights in GB, which are either right to 5 percent or wrong."""
    near = Span(round(0.95 * claimed, 3), round(1.05 * claimed, 3))
    words = {"float32": "float32", "nf4": "NF4, the rest in 16 bits"}[kind]
    return Claim(
        f"{size} takes {claimed:g} GB in {'full precision' if kind == 'float32' else '4 bits'}",
        ARTICLE,
        f"{kind}_{size}",
        f"GB of Llama 2 {size}, {words}",
        near,
        Span(),
    )


CLAIMS = (
    Claim(
        "One learning rate is best for all ranks",
        REGRET,
        "rate_spread",
        "highest best rate over lowest, ranks apart",
        Span(most=1.01),
        # Two steps of the grid, where noise moves a best rate by one.
        Span(least=8),
    ),
    Claim(
        "LoRA's best rate is 10 times that of full fine-tuning",
        REGRET,
        "rate_ratio",
        "LoRA's middle best rate over full's",
        Span(5, 20),
        Span(most=1),
    ),
    Claim(
        "At a high enough rank LoRA learns as well as full fine-tuning",
        REGRET,
        "regret_highest",
        "loss above full's, highest rank",
        Span(most=0.01),
        Span(least=0.1),
    ),
    Claim(
        "Too low a rank falls behind",
        REGRET,
        "rank_matters",
        f"lowest rank behind highest, {ERRORS}",
        CLEAR,
        OPPOSITE,
    ),
    Claim(
        "Attention alone is worse than MLP alone at equal parameters",
        REGRET,
        "attention_behind_mlp",
        f"attention behind MLP, {ERRORS}",
        CLEAR,
        OPPOSITE,
    ),
    Claim(
        "Attention adds nothing to MLP",
        REGRET,
        "all_behind_mlp",
        f"all linears behind MLP at equal parameters, {ERRORS}",
        Span(least=-2),
        Span(most=-4),
    ),
    Claim(
        "Adapting q and v is best",
        ARTICLE,
        "mlp_behind_q_and_v",
        f"MLP behind q and v at equal parameters, {ERRORS}",
        CLEAR,
        OPPOSITE,
    ),
    Claim(
        "Large batches cost LoRA more than full fine-tuning",
        REGRET,
        "batch_penalty",
        f"gap to full at largest batch above that at smallest, {ERRORS}",
        CLEAR,
        OPPOSITE,
    ),
    Claim(
        "LoRA takes two thirds of the operations",
        REGRET,
        "flops_kept",
        "LoRA's FLOPs over full's, rank 8, activations kept",
        Span(0.6, 0.73),
        Span(least=0.9),
    ),
    Claim(
        "So it does with gradient checkpointing",
        ARTICLE,
        "flops_recomputed",
        "LoRA's FLOPs over full's, rank 8, both compute activations again",
        Span(0.6, 0.73),
        Span(least=0.9),
    ),
    Claim(
        "Double quantization saves 0.37 bits a parameter",
        QLORA,
        "bits_saved",
        "bits, by the bytes of a linear",
        Span(0.36, 0.38),
        Span(),
    ),
    *(size_of(size, "float32", claimed) for size, claimed in (("7B", 28), ("13B", 52), ("70B", 350))),
    *(size_of(size, "nf4", claimed) for size, claimed in (("7B", 3.5), ("13B", 6.5), ("70B", 42))),
    Claim(
        "QLoRA trains faster (3.2, 2.8 and 1.8 times)",
        ARTICLE,
        "nf4_speed",
        "tokens/s of a PEFT loop over NF4 by those over the plain base",
        Span(least=1.8),
        Span(most=1),
    ),
    Claim(
        "LoRA trains 0.1% to 1% of the parameters",
        ARTICLE,
        "trained_share",
        "rank 16 on all linears of Llama 2 7B",
        Span(0.001, 0.01),
        Span(),
    ),
    Claim(
        "Added to what NF4 has left of the base, an adapter is merged without loss",
        "axolotl",
        "merge_exact",
        "share of the adapter's gain lost",
        Span(most=0.001),
        Span(least=0.01),
    ),
    Claim(
        "Merged into the quantized model itself, it is kept as well",
        "TRL's former docs (trl#1324)",
        "merge_requantized",
        "share of the adapter's gain lost",
        Span(most=0.001),
        Span(least=0.01),
    ),
    Claim(
        "A QLoRA adapter belongs into the unquantized base",
        "LLaMA-Factory (#5577)",
        "merge_original",
        "share of the adapter's gain lost",
        Span(most=0.001),
        Span(least=0.01),
    ),
    Claim(
        "Adapters trained at once: 1.47 times the tokens/s",
        "LoRAFusion (arXiv 2510.00206)",
        "concurrent",
        "tokens/s of the most at once over one after another",
        Span(least=1.47),
        Span(most=1),
    ),
)
