"""The engine on a CUDA device gives the CPU engine's tokens."""

from typing import Any

import pytest
import torch

from tests.toys import VOCAB, drive

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def burst(zoo: Any, **options: Any) -> list[list[int]]:
    """Base and every adapter, greedy and seeded, in the same batches."""
    driven = drive(zoo.base, zoo.store, step_tokens=64, **options)
    generator = torch.Generator().manual_seed(0)
    asked = []
    for number, digest in enumerate(list(zoo.digests.values()) * 2):
        prompt = torch.randint(3, VOCAB, (5 + 7 * number,), generator=generator).tolist()
        sampling = {"temperature": 0.9, "top_p": 0.9, "seed": number} if number % 2 else {}
        asked.append(driven.submit(prompt, digest, max_new_tokens=20, **sampling))
    answers = driven.answers(*asked)
    assert driven.failures == {}
    return answers


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_tokens_equal_the_cpu_engines(zoo: Any, quantization: str) -> None:
    options = {"quantization": quantization, "dtype": "float32"}
    assert burst(zoo, device="cuda", **options) == burst(zoo, device="cpu", **options)


def test_slots_that_change_hands_all_the_time_change_no_token(zoo: Any) -> None:
    roomy = burst(zoo, device="cuda", dtype="float32")
    assert burst(zoo, device="cuda", dtype="float32", adapter_slots=1, max_running=3) == roomy


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_half_precision_runs_with_every_quantization(zoo: Any, quantization: str) -> None:
    answers = burst(zoo, device="cuda", dtype="bfloat16", quantization=quantization)
    assert [len(answer) for answer in answers] == [20] * len(answers)
