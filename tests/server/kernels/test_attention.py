import torch
import torch.nn.functional as F

from server.kernels.attention import (
    AttentionPlan,
    Chunk,
    DecodeGroup,
    PagedPlan,
    paged_attention,
    store_kv,
)


def test_decodes_and_chunks_over_scattered_cells_equal_dense_attention() -> None:
    """Three sequences in one step: two decode (contexts 5 and 9), one brings 3 tokens onto 4 cached ones."""
    generator = torch.Generator().manual_seed(0)
    heads, kv_heads, dim, cells = 4, 2, 8, 40
    contexts, news = (5, 9, 7), (1, 1, 3)
    order = torch.randperm(cells, generator=generator)
    places = order[:21].split(contexts)
    keys, values = (torch.randn(21, kv_heads, dim, generator=generator).split(contexts) for _ in range(2))
    k_cache, v_cache = (
        torch.full((cells, kv_heads, dim), torch.nan),
        torch.full((cells, kv_heads, dim), torch.nan),
    )
    for k, v, at in zip(keys, values, places, strict=True):
        store_kv(k, v, k_cache, v_cache, at)
    q = torch.randn(5, heads, dim, generator=generator)
    padded = torch.stack([places[0][[0, 1, 2, 3, 4, 4, 4, 4, 4]], places[1]])
    seen = (torch.arange(9) < torch.tensor([[5], [9]]))[:, None, None, :]
    causal = torch.arange(7) <= torch.arange(4, 7)[:, None]
    plan = AttentionPlan(
        cells=torch.empty(0, dtype=torch.long),
        decodes=DecodeGroup(torch.tensor([0, 1]), padded, seen),
        chunks=[Chunk(2, 5, places[2], causal)],
    )
    out = paged_attention(q, k_cache, v_cache, plan)
    start = 0
    for k, v, new in zip(keys, values, news, strict=True):
        mask = torch.ones(new, len(k), dtype=torch.bool).tril(len(k) - new)
        expected = F.scaled_dot_product_attention(
            q[start : start + new].transpose(0, 1),
            k.repeat_interleave(2, dim=1).transpose(0, 1),
            v.repeat_interleave(2, dim=1).transpose(0, 1),
            attn_mask=mask,
        ).transpose(0, 1)
        torch.testing.assert_close(out[start : start + new], expected)
        start += new


def test_a_plan_finds_its_chunks_cells_once() -> None:
    """Chunks that see 5 and 6 cells in blocks of 4; between them is a decode and padding."""
    contexts, block_at, blocks = [5, 3, 0, 6], [0, 2, 0, 3], [7, 2, 5, 9, 1]
    plan = PagedPlan(
        *(torch.tensor(each, dtype=torch.int32) for each in ([0, 2, 3, 5, 11], contexts, block_at, blocks)),
        block_size=4,
        longest=6,
        total_context=11,
        longest_context=6,
    )
    assert plan.ends.tolist() == [0, 5, 5, 5, 11]
    assert plan.cells.tolist() == [28, 29, 30, 31, 8, 36, 37, 38, 39, 4, 5]
    assert plan.cells is plan.cells
