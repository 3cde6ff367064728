import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F

from server.kernels import int8, nf4


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_equal_bitsandbytes_dequantized_bytes(dtype: torch.dtype, double_quant: bool) -> None:
    weight = torch.randn(96, 192, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed, state = bnb.quantize_4bit(
        weight, blocksize=64, compress_statistics=double_quant, quant_type="nf4"
    )
    ours = nf4.quantize(weight, double_quant)
    assert torch.equal(ours.dequantize(dtype), bnb.dequantize_4bit(packed, state))
    assert torch.equal(ours.codes.view(-1, 1), packed)


def test_stacked_rows_equal_their_parts() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(rows, 128, generator=generator) for rows in (64, 32, 32)]
    held = [nf4.quantize(part, double_quant=True) for part in parts]
    whole = nf4.concatenate(held)
    assert whole.shape == (128, 128)
    assert torch.equal(
        whole.dequantize(torch.float32), torch.cat([h.dequantize(torch.float32) for h in held])
    )


def test_linear_multiplies_the_dequantized_weight() -> None:
    generator = torch.Generator().manual_seed(2)
    weight, x, bias = (torch.randn(*s, generator=generator) for s in ((48, 64), (5, 64), (48,)))
    held = nf4.quantize(weight, double_quant=False)
    assert torch.equal(held.linear(x, bias), F.linear(x, held.dequantize(torch.float32), bias))


def test_int8_rows_equal_bitsandbytes_and_linear_agrees() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, x, bias = (torch.randn(*s, generator=generator) for s in ((48, 64), (5, 64), (48,)))
    codes, absmax, _ = bnb.int8_vectorwise_quant(weight.half())
    held = int8.quantize(weight)
    assert torch.equal(held.codes, codes)
    assert torch.equal(held.dequantize(torch.float32), codes.float() * (absmax.view(-1, 1) / 127))
    assert torch.equal(held.linear(x, bias), F.linear(x, held.dequantize(torch.float32), bias))
    both = int8.concatenate([held, held])
    assert torch.equal(both.linear(x, None), held.linear(x, None).repeat(1, 2))


def test_int8_products_do_not_overflow_half_precision() -> None:
    held = int8.quantize(torch.full((4, 64), 0.1))
    y = held.linear(torch.full((1, 64), 80.0, dtype=torch.float16), None)
    torch.testing.assert_close(y, torch.full((1, 4), 512.0, dtype=torch.float16), rtol=0.01, atol=0)


def test_codes_stored_under_a_float_dtype_are_the_same_codes() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(4))
    packed, state = bnb.quantize_4bit(
        weight, blocksize=64, quant_type="nf4", quant_storage=torch.bfloat16, compress_statistics=True
    )
    assert packed.dtype == torch.bfloat16
    assert torch.equal(nf4.from_state(packed, state, 32).codes, nf4.quantize(weight, True).codes)
