"""Kinds whose update is the base's own weight, multiplied.

HiRA  W * (B A), entry by entry          HRA  W (H - I), H a product of Householder reflections
"""

from __future__ import annotations

from adapters.config_keys import FAN_IN, INIT, NOTES, number_keys
from adapters.kinds.kind import LAYERED, Kind, Options, Shape, flag_option
from adapters.shapes import Site


def _hira_parts(site: Site, options: Options) -> dict[str, Shape]:
    return {
        "hira_A": (site.target.rank, site.in_features),
        "hira_B": (site.out_features, site.target.rank),
    }


HIRA = Kind(
    "hira",
    used=(*LAYERED, "rank_pattern", "modules_to_save"),
    inert={**NOTES, **INIT, **FAN_IN, **number_keys("hira_dropout")},
    rank_key="r",
    parts=_hira_parts,
)

HRA = Kind(
    "hra",
    used=(*LAYERED, "bias", "modules_to_save"),
    inert={**NOTES, **INIT},
    options={"apply_GS": flag_option()},
    rank_key="r",
    parts=lambda site, options: {"hra_u": (site.in_features, site.target.rank)},
)
