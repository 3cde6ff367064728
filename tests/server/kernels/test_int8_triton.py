"""The int8 kernels against the formula in float64; under Triton's interpreter without a device."""

from dataclasses import replace

import pytest
import torch

from server.kernels.int8 import Int8Weight
from server.kernels.int8_fused import FUSED_ROWS, FusedInt8Weight

NAN = float("nan")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The device's kernels are for half precision; the interpreter's float32 shows what the sums are.
PRECISE = torch.float32 if DEVICE == "cpu" else torch.float16
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def scalars_are_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter holds scalars as arrays of one element, which NumPy 2.4 turns into no int."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_tensor(tensor: object, scope: interpreter._LangPatchScope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor)


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.empty gives the kernels holds NaN."""
    from server.kernels import int8_triton

    def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.full(shape, NAN, dtype=dtype, device=device)

    class Torch:
        empty = staticmethod(poisoned)

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

    monkeypatch.setattr(int8_triton, "torch", Torch())


def make(
    rows: int, width_out: int, width_in: int, dtype: torch.dtype
) -> tuple[torch.Tensor, FusedInt8Weight, torch.Tensor]:
    """x, a weight of all codes from -128 on, a bias."""
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(-128, 128, (width_out, width_in), generator=generator, dtype=torch.int8)
    absmax = torch.rand(width_out, generator=generator) + 0.1
    x = torch.randn(rows, width_in, generator=generator) / width_in**0.5
    bias = torch.randn(width_out, generator=generator)
    weight = FusedInt8Weight(codes.to(DEVICE), absmax.to(DEVICE))
    return x.to(DEVICE, dtype), weight, bias.to(DEVICE, dtype)


def twin(weight: Int8Weight) -> Int8Weight:
    return Int8Weight(weight.codes.cpu(), weight.absmax.cpu())


def formula(x: torch.Tensor, weight: Int8Weight, bias: torch.Tensor | None) -> torch.Tensor:
    y = x.double() @ weight.codes.double().T * (weight.absmax.double() / 127)
    return y if bias is None else y + bias.double()


@pytest.mark.parametrize("rows", [1, 16, 17, 64])
@pytest.mark.parametrize(("width_out", "width_in"), [(48, 64), (136, 1300)])
@pytest.mark.parametrize("dtype", dict.fromkeys((PRECISE, torch.float16)))
def test_products_equal_the_formula(rows: int, width_out: int, width_in: int, dtype: torch.dtype) -> None:
    from server.kernels import int8_triton

    x, weight, bias = make(rows, width_out, width_in, dtype)
    # A view of wider rows: what stands beside them may not be read.
    beside = torch.full((rows, width_in + 8), NAN, dtype=dtype, device=DEVICE)
    beside[:, :width_in] = x
    for given, added in ((x, None), (beside[:, :width_in], bias)):
        y = int8_triton.linear(given, weight.codes, weight.absmax, added)
        assert y.dtype == dtype
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(y.double(), formula(x, weight, added), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [5, 40])
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_splits_cover_every_column_once(monkeypatch: pytest.MonkeyPatch, rows: int, splits: int) -> None:
    """Also where the last split is short or has nothing to do."""
    from server.kernels import int8_triton

    x, weight, bias = make(rows, 72, 600, PRECISE)
    span = -(-600 // splits // 256) * 256 if splits < 4 else 256
    forced = replace(int8_triton.plan(rows, 72, 600), splits=splits, span=span)
    monkeypatch.setattr(int8_triton, "plan", lambda *_: forced)
    y = int8_triton.linear(x, weight.codes, weight.absmax, bias)
    torch.testing.assert_close(
        y.double(), formula(x, weight, bias), rtol=TOLERANCE[PRECISE], atol=TOLERANCE[PRECISE]
    )


@pytest.mark.parametrize("rows", [1, 16, 32, 64])
@pytest.mark.parametrize("shape", [(6144, 4096), (4096, 14336), (28672, 4096), (1536, 8960), (48, 64)])
def test_plans_cover_the_weight(rows: int, shape: tuple[int, int]) -> None:
    from server.kernels import int8_triton

    p = int8_triton.plan(rows, *shape)
    assert rows <= p.block_m and p.span % p.block_k == 0
    assert (p.splits - 1) * p.span < shape[1] <= p.splits * p.span
    # Enough work for every multiprocessor, wherever there is that much.
    programs = -(-shape[0] // p.block_n) * p.splits
    assert programs >= int8_triton.MIN_PROGRAMS or p.splits == 8 or p.span < 8 * p.block_k


# Triton's interpreter cuts bfloat16 off instead of rounding; the device's test has it.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(48, 64), (130, 1100)])
def test_copies_of_the_weight_equal_the_twins(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    from server.kernels import int8_triton

    _, weight, _ = make(1, *shape, torch.float32)
    made = int8_triton.dequantize(weight.codes, weight.absmax, dtype)
    assert torch.equal(made.cpu(), twin(weight).dequantize(dtype))


def test_the_twin_multiplies_in_float32_and_rounds_once() -> None:
    weight = twin(make(1, 40, 64, torch.float32)[1])
    exact = weight.codes.float() * (weight.absmax / 127).unsqueeze(-1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(weight.dequantize(dtype), exact.to(dtype))


def test_what_adapters_add_is_added() -> None:
    class Sum:
        def add(self, y: torch.Tensor, x: torch.Tensor) -> None:
            y += x.sum() + 1

    x, weight, bias = make(3, 48, 64, PRECISE)
    y = weight.linear(x, bias)
    assert torch.equal(weight.linear(x, bias, Sum()), y + (x.sum() + 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnDevice:
    @pytest.mark.parametrize("rows", [1, 3, 16, 17, 33, 64])
    @pytest.mark.parametrize(
        "shape", [(6144, 4096), (4096, 14336), (28672, 4096), (1536, 8960), (1000, 2048)]
    )
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_few_rows_equal_the_formula_and_repeat(
        self, rows: int, shape: tuple[int, int], dtype: torch.dtype
    ) -> None:
        x, weight, bias = make(rows, *shape, dtype)
        first = weight.linear(x, bias)
        # The kernels follow each other closely, so one that does not wait for its x is found out.
        for _ in range(20):
            again = weight.linear(x + 0, bias)
            assert torch.equal(first, again)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(first.double(), formula(x, weight, bias), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_copies_equal_the_processors(self, dtype: torch.dtype) -> None:
        _, weight, _ = make(1, 1000, 4096, dtype)
        assert torch.equal(weight.dequantize(dtype).cpu(), twin(weight).dequantize(dtype))

    def test_many_rows_take_the_copy(self) -> None:
        x, weight, bias = make(FUSED_ROWS + 1, 512, 1024, torch.bfloat16)
        expected = torch.nn.functional.linear(x, weight.dequantize(x.dtype), bias)
        assert torch.equal(weight.linear(x, bias), expected)
