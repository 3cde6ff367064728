"""The small kernels of a step equal their twins in float32, but for one rounding."""

import pytest
import torch
import torch.nn.functional as F

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, device="cuda").bfloat16()


@pytest.mark.parametrize("tokens", [1, 5, 64, 700])
@pytest.mark.parametrize("hidden", [64, 520, 4096, 16384])
def test_norms_equal_the_formula_and_keep_the_sum(tokens: int, hidden: int) -> None:
    from server.kernels.fused_cuda import add_rms_norm

    x, residual, weight = random(tokens, hidden), random(tokens + 1, hidden)[1:], random(hidden)
    total = x + residual
    normed, kept = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(kept, total) and kept.data_ptr() == residual.data_ptr()
    expected = F.rms_norm(total.float(), (hidden,), weight.float(), 1e-5)
    torch.testing.assert_close(normed.float(), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("tokens", [1, 64, 700])
@pytest.mark.parametrize("ffn", [64, 1416, 14336])
def test_gates_equal_the_formula(tokens: int, ffn: int) -> None:
    from server.kernels.fused_cuda import silu_mul

    gate_up = random(tokens, 2 * ffn)
    gate, up = gate_up.float().chunk(2, dim=1)
    torch.testing.assert_close(silu_mul(gate_up).float(), F.silu(gate) * up, rtol=2**-7, atol=2**-7)


def test_tokens_that_only_the_device_knows_are_looked_up() -> None:
    from server.kernels.fused_cuda import embed

    table, previous = random(50, 64), torch.tensor([7, 9, -1], dtype=torch.int32, device="cuda")
    ids = torch.tensor([3, -1, 0, -2, -3], dtype=torch.int32, device="cuda")
    # The third of the step before could not be sampled: any row will do, none outside the table is read.
    assert torch.equal(embed(ids, previous, table), table[[3, 7, 0, 9, 0]])


@pytest.mark.parametrize("vocab", [7, 320, 4097, 128256])
@pytest.mark.parametrize("rows", [1, 33])
def test_the_likeliest_is_the_first_of_equals_and_what_is_not_finite_is_none(rows: int, vocab: int) -> None:
    from server.kernels.fused_cuda import greedy

    logits = random(rows, vocab)
    assert greedy(logits).tolist() == logits.argmax(dim=1).tolist()
    equal = torch.full((rows, vocab), -2.0, device="cuda", dtype=torch.bfloat16)
    assert greedy(equal).tolist() == [0] * rows
    equal[:, vocab - 1] = 0.0
    assert greedy(equal).tolist() == [vocab - 1] * rows
    for poison in (float("nan"), -float("nan"), float("inf")):
        spoilt = logits.clone()
        spoilt[0, vocab // 2] = poison
        assert greedy(spoilt).tolist() == [-1, *logits[1:].argmax(dim=1).tolist()]
    banned = torch.full((1, vocab), -float("inf"), device="cuda", dtype=torch.bfloat16)
    assert greedy(banned).tolist() == [-1]
    banned[0, 3] = -1e30
    assert greedy(banned).tolist() == [3]
