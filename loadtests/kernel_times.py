"""Where a step's time goes on a CUDA device."""

import re
from collections import Counter
from collections.abc import Callable

import torch

TOP = 14


def kernel_times(answer: Callable[[int], object], num_steps: int = 16) -> dict[str, float]:
    """Milliseconds of one decode step by kernel, the slowest first. answer(n): n new tokens."""
    short, long = _recorded(answer, 8), _recorded(answer, 8 + num_steps)
    times = {name: (long[name] - short[name]) / num_steps / 1e3 for name in long}
    ordered = sorted(times.items(), key=lambda item: -item[1])
    kept = dict(ordered[:TOP])
    rest = sum(ms for _, ms in ordered[TOP:])
    return {**kept, "others": rest} if rest > 0 else kept


def _recorded(answer: Callable[[int], object], num_tokens: int) -> Counter[str]:
    """Microseconds by kernel."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        answer(num_tokens)
        torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in profile.events():
        if event.device_type.name == "CUDA":
            times[_short(event.name)] += event.device_time
    return times


def _short(name: str) -> str:
    """Without what templates and compilers add."""
    return re.sub(r"<.*|\(.*", "", name.removeprefix("void "))[:48]
