"""Kinds whose linears share tensors, which the file has once.

VeRA     diag(b) B diag(d) A, with A and B shared        VB-LoRA  A and B mixed from a shared bank of vectors
"""

from __future__ import annotations

from collections.abc import Sequence

from adapters.config_keys import FAN_IN, INIT, MERGE, NOTES, is_off, number_keys
from adapters.config_reader import Reader
from adapters.kinds.kind import LAYERED, Kind, Option, Options, Shape, count_option
from adapters.shapes import BaseShapes, Claim, Site

_MODEL = "base_model."


def _vera_parts(site: Site, options: Options) -> dict[str, Shape]:
    return {"vera_lambda_b": (site.out_features,), "vera_lambda_d": (site.target.rank,)}


def _vera_claims(sites: Sequence[Site], options: Options, base: BaseShapes) -> dict[str, Claim]:
    if not options["save_projection"] or not sites:
        return {}
    rank = sites[0].target.rank
    widest = max(site.in_features for site in sites), max(site.out_features for site in sites)
    return {
        f"{_MODEL}vera_A": Claim("", "vera_A", (rank, widest[0])),
        f"{_MODEL}vera_B": Claim("", "vera_B", (widest[1], rank)),
    }


VERA = Kind(
    "vera",
    used=(*LAYERED[:1], *LAYERED[2:], "bias", "modules_to_save"),
    inert={**NOTES, **INIT, **FAN_IN, **number_keys("vera_dropout", "d_initial")},
    options={
        "save_projection": Option(lambda value: isinstance(value, bool), True, "write true or false"),
        "projection_prng_key": count_option(0, 0, 2**63 - 1),
    },
    rank_key="r",
    parts=_vera_parts,
    claims=_vera_claims,
)


def _vblora_parts(site: Site, options: Options) -> dict[str, Shape]:
    rank, length, vectors = site.target.rank, options["vector_length"], options["num_vectors"]
    return {
        "vblora_logits_A": (rank, site.in_features // length, vectors),
        "vblora_logits_B": (site.out_features // length, rank, vectors),
    }


def _vblora_claims(sites: Sequence[Site], options: Options, base: BaseShapes) -> dict[str, Claim]:
    shape = (options["num_vectors"], options["vector_length"])
    return {f"{_MODEL}vblora_vector_bank": Claim("", "vblora_vector_bank", shape)}


def _check_vblora(reader: Reader, options: Options) -> None:
    if options["topk"] > options["num_vectors"]:
        reader.problems.append("topk must not be above num_vectors")


VBLORA = Kind(
    "vblora",
    used=(*LAYERED, "bias", "modules_to_save"),
    inert={
        **NOTES,
        **FAN_IN,
        **number_keys("vblora_dropout", "init_vector_bank_bound", "init_logits_std"),
        "save_only_topk_weights": (is_off, "save it with save_only_topk_weights=False, or " + MERGE),
    },
    options={
        "num_vectors": count_option(256),
        "vector_length": count_option(256),
        "topk": count_option(2),
    },
    rank_key="r",
    parts=_vblora_parts,
    divides=lambda site, options: (
        site.in_features % options["vector_length"] == 0 and site.out_features % options["vector_length"] == 0
    ),
    claims=_vblora_claims,
    check=_check_vblora,
    max_dims=3,
)
