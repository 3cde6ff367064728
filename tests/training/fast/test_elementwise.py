"""Gradients against autograd's own, and the kernels (in Triton's interpreter without a GPU) against twins."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.fast import elementwise
from training.fast.elementwise import heads_of, silu_mul

triton = pytest.importorskip("triton")

from training.fast import elementwise_triton  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def exact(x: torch.Tensor) -> torch.Tensor:
    """For the twin: nothing on its way is rounded to 16 bits."""
    return x.float().cpu()


def angles_of(batch: int, length: int, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """As layers get them: halves of wider rows."""
    turns = drawn(batch, length, dim // 2).repeat(1, 1, 2)
    return turns.cos().to(dtype)[..., : dim // 2], turns.sin().to(dtype)[..., : dim // 2]


def plain_heads(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kv_heads: int
) -> tuple[torch.Tensor, ...]:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k, v = qkv.transpose(1, 2).split([qkv.shape[2] - 2 * kv_heads, kv_heads, kv_heads], 1)
    q, k = apply_rotary_pos_emb(q, k, torch.cat((cos, cos), -1), torch.cat((sin, sin), -1))
    return q, k, v


@pytest.mark.parametrize("batch_of_angles", [1, 2])
def test_heads_turn_as_transformers_do(batch_of_angles: int) -> None:
    torch.manual_seed(0)
    qkv = drawn(2, 5, 4 + 2 * 2, 6).requires_grad_()
    cos, sin = angles_of(batch_of_angles, 5, 6, torch.float32)
    fast, slow = heads_of(qkv, cos, sin, 2), plain_heads(qkv, cos, sin, 2)
    torch.testing.assert_close(fast, slow)
    weights = [torch.randn_like(each) for each in slow]
    (fast_grad,) = torch.autograd.grad(fast, qkv, weights)
    (slow_grad,) = torch.autograd.grad(slow, qkv, weights)
    torch.testing.assert_close(fast_grad, slow_grad)


def test_the_gated_product_is_torchs() -> None:
    torch.manual_seed(1)
    gate_up = drawn(3, 4, 14).requires_grad_()
    gate, up = gate_up.chunk(2, -1)
    fast, slow = silu_mul(gate_up), F.silu(gate) * up
    torch.testing.assert_close(fast, slow)
    weight = torch.randn_like(slow)
    grads = [torch.autograd.grad(y, gate_up, weight, retain_graph=True)[0] for y in (fast, slow)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("batch_of_angles", "dim"), [(1, 8), (2, 6)])
def test_the_turning_kernel_is_its_twin(
    dtype: torch.dtype, back: bool, batch_of_angles: int, dim: int
) -> None:
    torch.manual_seed(2)
    x = drawn(2, 3, 5, dim, dtype=dtype)
    cos, sin = angles_of(batch_of_angles, 3, dim, dtype)
    wanted, found = torch.empty(x.shape), torch.empty_like(x)
    elementwise.turn(wanted, exact(x), exact(cos), exact(sin), 4, back=back)
    elementwise_triton.turn(found, x, cos, sin, 4, back=back)
    torch.testing.assert_close(found.cpu(), wanted.to(dtype))
    elementwise_triton.turn(x, x, cos, sin, 4, back=back)
    assert torch.equal(x, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gating_kernels_are_their_twins(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    # Wider than one block of columns, and no multiple of it.
    ffn = elementwise_triton.BLOCK + 5
    gate_up, grad = drawn(2, 1, 2 * ffn, dtype=dtype), drawn(2, 1, ffn, dtype=dtype)
    found = elementwise_triton.silu_mul(gate_up), elementwise_triton.silu_mul_backward(grad, gate_up)
    wanted = silu_mul(exact(gate_up)), elementwise.silu_mul_backward(exact(grad), exact(gate_up))
    for mine, twins in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.cpu(), twins.to(dtype))
