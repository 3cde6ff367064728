"""Where a step's time goes on a CUDA device."""

import math
import re
from collections import defaultdict
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


def _recorded(answer: Callable[[int], object], num_tokens: int) -> defaultdict[str, float]:
    """Microseconds by kernel: how much later the device was done because of it.

    Kernels overlap, and one that waits for the one before it is not at work: each counts from that one's end.
    """
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        answer(num_tokens)
        torch.cuda.synchronize()
    events = [event for event in profile.events() if event.device_type.name == "CUDA"]
    spans = [(event.time_range.start, event.time_range.end, _short(event.name)) for event in events]
    return exclusive_times(spans)


def exclusive_times(spans: list[tuple[float, float, str]]) -> defaultdict[str, float]:
    """(begin, end, name) -> the time of each name in which nothing that ended before was still under way."""
    times: defaultdict[str, float] = defaultdict(float)
    done = -math.inf
    for begin, end, name in sorted(spans, key=lambda span: span[1]):
        times[name] += end - max(begin, done)
        done = end
    return times


def _short(name: str) -> str:
    """Without what templates and compilers add."""
    return re.sub(r"<.*|\(.*", "", name.removeprefix("void "))[:48]
