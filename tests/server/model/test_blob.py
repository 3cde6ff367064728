"""A blob is the same wherever its memory comes from, and says which part of it is no number."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from server.engine.host_pool import PinnedPool
from server.model.blob import make_blob
from server.model.config import ModelConfig
from tests.changes import KINDS, weights_of
from tests.toys import SMALL

CONFIG = ModelConfig.from_hf(LlamaConfig(**SMALL))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_that_was_another_adapters_makes_the_same_blob(kind: str, dtype: torch.dtype) -> None:
    pool, weights = PinnedPool(1 << 22, lock_pages=False), weights_of(kind, CONFIG)

    def allocate(num_elements: int, dtype: torch.dtype) -> Tensor:
        taken = pool.take(num_elements, dtype)
        assert taken is not None
        return taken.fill_(torch.nan)

    fresh, reused = (make_blob(weights, CONFIG, dtype, each) for each in (None, allocate))
    assert torch.equal(fresh.flat.view(torch.uint8), reused.flat.view(torch.uint8))
    assert reused.overflows() == ""


def test_what_is_no_number_is_named() -> None:
    for kind, part in (("pair", "low-rank pair"), ("gain", "vector"), ("norms", "norm")):
        blob = make_blob(weights_of(kind, CONFIG), CONFIG, torch.float16)
        name, tensor = list(blob.tensors())[-1]
        tensor[-1] = torch.inf
        assert blob.overflows() == name and part in name
