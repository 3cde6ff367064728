"""From a request's sampling to the engine's, for each of its samples."""

from server.engine.messages import Sampling
from server.requests import GenerateParams

# Odd, so that all samples of a request have seeds of their own; the golden ratio, so that they are far apart.
SEED_STRIDE = 0x9E3779B97F4A7C15


def sample_seed(seed: int, index: int) -> int:
    """seed + index * stride, modulo 2^64: sample 0 uses the seed itself."""
    return (seed + index * SEED_STRIDE) % 2**64


def sampling_of(params: GenerateParams, seed: int, eos: frozenset[int], room: int) -> Sampling:
    """The engine's record for one sample, with `room` tokens left beside the prompt."""
    max_new_tokens = min(params.max_new_tokens, room)
    stops = set(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos)
    return Sampling(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=seed,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min(params.min_new_tokens, max_new_tokens),
        stop_token_ids=tuple(sorted(stops)),
        logprobs=params.logprobs,
    )
