"""Kinds whose update is a product of smaller factors, whatever the base's weights are.

LoHa    (B1 A1) * (B2 A2), entry by entry            LoKr     W1 (x) W2, each whole or a pair
DeLoRA  B diag(lambda / (r |a_i| |b_i|)) A diag(|w|)  GraLoRA  k * k blocks, each a pair
MiSS    one block of columns, repeated along the input
"""

from __future__ import annotations

from adapters.config_keys import (
    FAN_IN,
    INIT,
    NOTES,
    is_flag,
    is_numbers_by_name,
    number_keys,
)
from adapters.config_reader import Reader
from adapters.kinds.kind import (
    LAYERED,
    PATTERNS,
    Kind,
    Option,
    Options,
    Shape,
    count_option,
    flag_option,
    quotient,
)
from adapters.shapes import Site

_DROPOUTS = number_keys("rank_dropout", "module_dropout")
_CONVOLUTIONS = {"use_effective_conv2d": (is_flag, "write true or false; linears are no convolutions")}


def _loha_parts(site: Site, options: Options) -> dict[str, Shape]:
    out, width, rank = site.out_features, site.in_features, site.target.rank
    left: Shape = (out, rank)
    return {
        "hada_w1_a": left,
        "hada_w1_b": (rank, width),
        "hada_w2_a": left,
        "hada_w2_b": (rank, width),
    }


LOHA = Kind(
    "loha",
    used=(*LAYERED, *PATTERNS, "modules_to_save"),
    inert={**NOTES, **INIT, **_DROPOUTS, **_CONVOLUTIONS},
    rank_key="r",
    alpha_key="alpha",
    parts=_loha_parts,
    scale=quotient,
)


def split(size: int, factor: int) -> tuple[int, int]:
    """Two factors of a dimension, as LoKr chooses them: near `factor`, or near the root for -1."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    highest = size if factor == -1 else factor
    low, high = 1, size
    while low < high:
        next_low = next(number for number in range(low + 1, size + 1) if size % number == 0)
        if next_low + size // next_low > low + high or next_low > highest:
            break
        low, high = next_low, size // next_low
    return min(low, high), max(low, high)


def _lokr_parts(site: Site, options: Options) -> dict[str, Shape]:
    rank, factor = site.target.rank, options["decompose_factor"]
    (out1, out2), (in1, in2) = split(site.out_features, factor), split(site.in_features, factor)
    shapes: dict[str, Shape] = {}
    if options["decompose_both"] and rank < max(out1, in1) / 2:
        shapes |= {"lokr_w1_a": (out1, rank), "lokr_w1_b": (rank, in1)}
    else:
        shapes["lokr_w1"] = (out1, in1)
    if rank < max(out2, in2) / 2:
        return {**shapes, "lokr_w2_a": (out2, rank), "lokr_w2_b": (rank, in2)}
    return {**shapes, "lokr_w2": (out2, in2)}


LOKR = Kind(
    "lokr",
    used=(*LAYERED, *PATTERNS, "modules_to_save"),
    inert={
        **NOTES,
        **_DROPOUTS,
        **_CONVOLUTIONS,
        "rank_dropout_scale": (is_flag, "write true or false"),
        # "lycoris" is another start of the same tensors.
        "init_weights": (
            lambda value: is_flag(value) or value == "lycoris",
            "write true, false or 'lycoris'",
        ),
    },
    options={
        "decompose_both": flag_option(),
        "decompose_factor": Option(
            lambda value: type(value) is int and (value == -1 or 0 < value < 2**31),
            -1,
            "write -1 or a whole number above 0",
        ),
    },
    rank_key="r",
    alpha_key="alpha",
    parts=_lokr_parts,
    scale=quotient,
)


def _miss_parts(site: Site, options: Options) -> dict[str, Shape]:
    rank, out = site.target.rank, site.out_features
    shape = {"bat": (out // rank, rank, rank), "mini": (rank, options["mini_r"])}
    return {"miss_block": shape.get(options["init_weights"], (rank, out))}


def _miss_divides(site: Site, options: Options) -> bool:
    rank, out, width = site.target.rank, site.out_features, site.in_features
    if options["init_weights"] == "bat":
        return out % rank == 0 and width % rank == 0
    return rank <= width and (options["init_weights"] != "mini" or out % options["mini_r"] == 0)


def _check_miss(reader: Reader, options: Options) -> None:
    if options["init_weights"] == "mini" and options["mini_r"] < 1:
        reader.problems.append("mini_r must be above 0")


MISS = Kind(
    "miss",
    used=(*LAYERED, "bias", "modules_to_save"),
    inert={**NOTES, **number_keys("miss_dropout")},
    options={
        "mini_r": count_option(1),
        "init_weights": Option(
            lambda value: isinstance(value, bool) or value in ("bat", "mini"),
            True,
            "write true, false, 'bat' or 'mini'",
        ),
    },
    rank_key="r",
    parts=_miss_parts,
    divides=_miss_divides,
    check=_check_miss,
    max_dims=3,
)


def _delora_parts(site: Site, options: Options) -> dict[str, Shape]:
    rank, width = site.target.rank, site.in_features
    shapes: dict[str, Shape] = {"delora_A": (rank, width), "delora_B": (site.out_features, rank)}
    return {**shapes, "delora_lambda": (1,), "delora_w_norm": (width,)}


DELORA = Kind(
    "delora",
    used=(*LAYERED, "rank_pattern", "bias", "modules_to_save"),
    inert={
        **NOTES,
        **INIT,
        **number_keys("module_dropout", "delora_lambda"),
        "lambda_pattern": (is_numbers_by_name, "write an object of numbers; the tensors hold the bounds"),
    },
    rank_key="r",
    parts=_delora_parts,
)


def _gralora_parts(site: Site, options: Options) -> dict[str, Shape]:
    rank, k, hybrid = site.target.rank, options["gralora_k"], options["hybrid_r"]
    out, width = site.out_features, site.in_features
    shapes: dict[str, Shape] = {
        "gralora_A": (k, width // k, rank),
        "gralora_B": (k, rank, out // k),
    }
    if hybrid:
        shapes |= {"gralora_A_general.weight": (hybrid, width), "gralora_B_general.weight": (out, hybrid)}
    return shapes


def _check_gralora(reader: Reader, options: Options) -> None:
    rank = reader.config.get("r")
    if type(rank) is int and rank % options["gralora_k"]:
        reader.problems.append(f"r = {rank} must be a multiple of gralora_k = {options['gralora_k']}")


GRALORA = Kind(
    "gralora",
    used=(LAYERED[0], *LAYERED[2:], "bias", "modules_to_save"),
    inert={**NOTES, **INIT, **FAN_IN, **number_keys("gralora_dropout")},
    options={"gralora_k": count_option(2, highest=64), "hybrid_r": count_option(0, 0)},
    rank_key="r",
    alpha_key="alpha",
    parts=_gralora_parts,
    divides=lambda site, options: (
        site.in_features % options["gralora_k"] == 0 and site.out_features % options["gralora_k"] == 0
    ),
    scale=lambda rank, alpha, options: alpha / (rank + options["hybrid_r"]),
    check=_check_gralora,
    max_dims=3,
)
