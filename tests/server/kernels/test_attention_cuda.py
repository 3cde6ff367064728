"""Paged attention on the device equals attention over each sequence by itself, in float32."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from server.kernels.attention import Heads, PagedPlan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BLOCK = 16
MAX_CONTEXT = 8192


@dataclass
class Cache:
    """Blocks of sequences in random order; what no sequence owns is NaN."""

    keys: Tensor
    values: Tensor
    blocks: list[list[int]]

    @classmethod
    def of(cls, contexts: list[int], heads: Heads) -> "Cache":
        counts = [-(-context // BLOCK) for context in contexts]
        order = torch.randperm(sum(counts) + 3, generator=torch.Generator().manual_seed(0)).tolist()
        blocks = [[order.pop() for _ in range(count)] for count in counts]
        shape = ((sum(counts) + 3) * BLOCK, heads.num_kv_heads, heads.dim)
        keys, values = (torch.full(shape, float("nan"), device="cuda").bfloat16() for _ in range(2))
        cache = cls(keys, values, blocks)
        for sequence, context in enumerate(contexts):
            cells = cache.cells(sequence, context)
            for tensor in (keys, values):
                tensor[cells] = torch.randn(context, *shape[1:], device="cuda").bfloat16()
        return cache

    def cells(self, sequence: int, context: int) -> Tensor:
        blocks = torch.tensor(self.blocks[sequence], dtype=torch.long, device="cuda")
        return (blocks[:, None] * BLOCK + torch.arange(BLOCK, device="cuda")).flatten()[:context]


def plan_of(lengths: list[int], contexts: list[int], cache: Cache, spare: int = 0) -> PagedPlan:
    """spare: what the longest and the contexts are said to have beyond what is there."""
    counts = [len(each) for each in cache.blocks]
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    # Padding has none, and stands where there are some.
    block_at = [sum(counts[:i]) if counts[i] else 0 for i in range(len(counts))]
    blocks = [block for each in cache.blocks for block in each]
    ints = [torch.tensor(v, dtype=torch.int32, device="cuda") for v in (starts, contexts, block_at, blocks)]
    longest = [max(lengths), sum(contexts), max(contexts)]
    return PagedPlan(*ints, BLOCK, *(each + spare for each in longest))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def check(
    lengths: list[int], contexts: list[int], heads: Heads, has_norms: bool = False, spare: int = 0
) -> None:
    from server.kernels.attention_cuda import attend

    torch.manual_seed(len(lengths))
    cache = Cache.of(contexts, heads)
    angles = torch.rand(MAX_CONTEXT, heads.dim // 2, device="cuda") * 6.28
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.dim
    qkv = torch.randn(sum(lengths), width, device="cuda").bfloat16()
    weights = [torch.rand(heads.dim, device="cuda").bfloat16() + 0.5 for _ in range(2)]
    norms: Any = (*weights, 1e-6) if has_norms else None
    ranges = [
        torch.arange(context - length, context) for length, context in zip(lengths, contexts, strict=True)
    ]
    # A context of 0 is padding; its row is anywhere.
    ranges = [torch.zeros(len(r), dtype=torch.long) if r[0] < 0 else r for r in ranges]
    positions = torch.cat(ranges).int().cuda()
    before = cache.keys.clone(), cache.values.clone()
    plan = plan_of(lengths, contexts, cache, spare)
    out = attend(qkv, heads, norms, (cos, sin), positions, cache.keys, cache.values, plan)
    assert not out.isnan().any()
    first = 0
    for sequence, (length, context) in enumerate(zip(lengths, contexts, strict=True)):
        rows = slice(first, first + length)
        first += length
        if context == 0:
            assert not out[rows].any()
            continue
        q, k, v = qkv[rows].view(length, -1, heads.dim).split((heads.num_heads, *[heads.num_kv_heads] * 2), 1)
        if norms is not None:
            q, k = (
                torch.nn.functional.rms_norm(x, (heads.dim,), w, norms[2])
                for x, w in zip((q, k), weights, strict=True)
            )
        c, s = (table[positions[rows].long()].unsqueeze(1).float() for table in (cos, sin))
        q, k = rotate(q.float(), c, s).bfloat16(), rotate(k.float(), c, s).bfloat16()
        cells = cache.cells(sequence, context)
        # Its own keys and values are there, and the others have not been touched.
        torch.testing.assert_close(cache.keys[cells[-length:]], k, rtol=2**-6, atol=2**-6)
        assert torch.equal(cache.values[cells[-length:]], v)
        for now, then in zip((cache.keys, cache.values), before, strict=True):
            assert torch.equal(now[cells[:-length]], then[cells[:-length]])
        keys, values = cache.keys[cells].float().transpose(0, 1), cache.values[cells].float().transpose(0, 1)
        seen = torch.arange(context, device="cuda") <= positions[rows].long()[:, None]
        expected = torch.nn.functional.scaled_dot_product_attention(
            q.float().transpose(0, 1), keys, values, attn_mask=seen, enable_gqa=True
        )
        expected = expected.transpose(0, 1).reshape(length, -1)
        torch.testing.assert_close(out[rows].float(), expected, rtol=0.02, atol=0.02)


HEADS = [Heads(32, 8, 128), Heads(8, 8, 64), Heads(8, 1, 32), Heads(14, 2, 64), Heads(8, 2, 256)]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("has_norms", [False, True])
def test_decodes(heads: Heads, has_norms: bool) -> None:
    check([1], [1], heads, has_norms)
    check([1] * 5, [1, 16, 17, 200, 48], heads, has_norms)
    check([1] * 64, [3 + 29 * i % 400 for i in range(64)], heads, has_norms)


def test_decodes_over_long_contexts_and_padding() -> None:
    check([1] * 3, [8192, 1, 4097], HEADS[0])
    check([1] * 8, [300, 20, 1, 0, 0, 0, 0, 0], HEADS[0])
    check([1] * 200, [1 + i for i in range(200)], HEADS[0])


@pytest.mark.parametrize("heads", HEADS[:4])
@pytest.mark.parametrize("has_norms", [False, True])
def test_chunks_and_decodes_in_one_step(heads: Heads, has_norms: bool) -> None:
    check([7], [7], heads, has_norms)
    check([1, 128, 1, 33, 500], [90, 128, 1, 700, 501], heads, has_norms)


@pytest.mark.parametrize("heads", HEADS[:4])
def test_chunks_padded_as_in_graphs(heads: Heads) -> None:
    check([1, 128, 33, 47, 3], [90, 700, 33, 0, 0], heads, spare=600)
    check([1, 1, 62], [90, 17, 0], heads, spare=4000)
