"""S-LoRA's published synthetic settings, by their names: rates, shapes, and 8 to 512 tokens in and out.

Its `alpha` is the exponent of `power`, where 1 is uniform; its `cv` that of gamma-distributed gaps. The
adapters of its settings S1 to S4 (7B and 13B, ranks 8 to 64) are the target's affair.
"""

import difflib
from dataclasses import replace

from loadtests.figures import LoadTestError
from loadtests.workload.spec import Answers, Arrivals, Popularity, Prompts, Spec


def _slora(name: str, adapters: int, alpha: float, rate: float, cv: float, duration: float) -> Spec:
    return Spec(
        name=name,
        arrivals=Arrivals(kind="gamma", rate=rate, cv=cv, duration=duration),
        popularity=Popularity(kind="power", adapters=adapters, alpha=alpha),
        prompts=Prompts(kind="uniform", low=8, high=512),
        answers=Answers(kind="uniform", low=8, high=512),
    )


# name: adapters, alpha, rate, cv, seconds
_SETTINGS = {
    "slora-a10g": (200, 1.0, 2.0, 1.0, 300.0),
    "slora-a10g-skewed": (200, 0.1, 2.0, 1.0, 300.0),
    "slora-a10g-bursty": (200, 1.0, 2.0, 8.0, 300.0),
    "slora-a100-80-S2": (200, 1.0, 10.0, 1.0, 300.0),
    "slora-a100-80-S4": (400, 1.0, 6.0, 1.0, 300.0),
    "slora-a100-80-S4-bursty": (400, 1.0, 6.0, 8.0, 300.0),
    "slora-a100-80-table": (1000, 1.0, 10.0, 1.0, 120.0),
    "slora-h100": (1000, 0.8, 20.0, 1.0, 60.0),
}
PRESETS = {name: _slora(name, *setting) for name, setting in _SETTINGS.items()}


def preset(name: str, adapters: int | None = None) -> Spec:
    """By name; with other numbers of adapters, as its tables have them."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise LoadTestError(f"there is no preset {name!r}{hint} There are {', '.join(PRESETS)}.")
    spec = PRESETS[name]
    if adapters is None:
        return spec
    return replace(spec, popularity=replace(spec.popularity, adapters=adapters))
