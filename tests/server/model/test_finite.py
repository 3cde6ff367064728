"""What is no finite number is found wherever it stands."""

import pytest
import torch

from server.model.finite import is_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (2, 3, 4), (3, 1 << 18), (1 << 19,)])
def test_one_number_among_many(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.full(shape, torch.finfo(dtype).max, dtype=dtype)
    tensor.view(-1)[::2] = -torch.finfo(dtype).max
    for each in (tensor, tensor.T if tensor.ndim == 2 else tensor[::2]):
        assert is_finite(each)
        for value in (float("inf"), float("-inf"), float("nan")):
            for at in (0, each.numel() // 2, each.numel() - 1):
                changed = each.clone()
                changed[tuple(torch.unravel_index(torch.tensor(at), each.shape))] = value
                assert not is_finite(changed)


def test_a_part_of_a_wider_tensor_is_looked_at_alone() -> None:
    whole = torch.full((6, 8), float("nan"))
    whole[:, :5] = 1.0
    assert is_finite(whole[:, :5].T) and not is_finite(whole[:, :6].T)


def test_nothing_and_integers_are_finite() -> None:
    assert is_finite(torch.empty(0)) and is_finite(torch.empty(3, 0))
    assert is_finite(torch.tensor([1 << 62]))
