"""`lorikeet loadtest kernels`: the peers that its figures stand beside compute what they should."""

import math

import pytest
import torch

from loadtests import attention_times
from loadtests.kernel_figures import COLD_BYTES, copies_of, error_of
from loadtests.kernels import KernelConfig, linears
from loadtests.synthetic import config_of
from loadtests.update_times import Tenants, with_pairs
from lorikeet.cli.main import main
from server.model.parts import linear_parts

CPU = torch.device("cpu")


def test_linears_are_the_decoders() -> None:
    assert linears("8b") == {
        "qkv": (6144, 4096),
        "o": (4096, 4096),
        "gate_up": (28672, 4096),
        "down": (4096, 14336),
    }


def test_an_error_is_of_the_largest_entry_and_no_number_never_passes() -> None:
    exact = torch.tensor([1.0, -4.0, 0.0], dtype=torch.float64)
    assert error_of(torch.tensor([1.0, -4.0, 1.0]), exact) == 0.25
    assert math.isnan(error_of(torch.tensor([1.0, math.nan, 0.0]), exact))


def test_copies_fill_more_than_a_devices_cache() -> None:
    assert copies_of(1 << 20) == COLD_BYTES >> 20
    assert copies_of(1 << 40) == 2


@pytest.mark.parametrize("linear", ["qkv", "o", "gate_up", "down"])
def test_pairs_are_each_tenants_own(linear: str) -> None:
    config = config_of("tiny")
    tenants, parts = Tenants(config, 3, CPU), linear_parts(config)[linear]
    pairs = [tenants.pairs(3, 1, part) for part in parts]
    (rows, width) = linears("tiny")[linear]
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(0)).bfloat16()
    doubled = [(a.double(), b.double()) for a, b in pairs]
    y = with_pairs(torch.zeros(3, rows, dtype=torch.float64), x.double(), doubled, parts)
    for token, blob in enumerate(tenants.blobs):
        expected = torch.zeros(rows, dtype=torch.float64)
        for pair in blob.pairs:
            if pair.layer == 1 and pair.linear == linear:
                delta = blob.b(pair).double().T @ (blob.a(pair).double() @ x[token].double())
                expected[pair.column : pair.column + pair.width_out] += delta
        assert expected.abs().sum() > 0
        torch.testing.assert_close(y[token], expected)


def test_contexts_in_one_piece_are_the_pages_in_their_order() -> None:
    generator = torch.Generator().manual_seed(1)
    count, context, heads, kv_heads, dim = 2, 5, 4, 2, 8
    k, v = (torch.randn(count * context, kv_heads, dim, generator=generator) for _ in range(2))
    q = torch.randn(count, heads, 1, dim, generator=generator)
    pieces = attention_times.in_one_piece(k, count), attention_times.in_one_piece(v, count)
    y = attention_times.attend_in_one_piece(q, pieces).view(count, heads, dim)
    for i in range(count):
        for head in range(heads):
            cells = slice(i * context, (i + 1) * context)
            keys, values = k[cells, head // 2], v[cells, head // 2]
            weights = (keys @ q[i, head, 0] / dim**0.5).softmax(0)
            torch.testing.assert_close(y[i, head], weights @ values)


def test_wrong_tokens_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "kernels", "--tokens", "1,none"]) == 2
    assert "must be whole numbers" in capsys.readouterr().err
    assert KernelConfig(tokens="3").tokens == "3"
