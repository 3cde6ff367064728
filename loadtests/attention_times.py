"""Attention of decodes over the paged cache, beside torch's over contexts that stand in one piece."""

import torch
import torch.nn.functional as F
from torch import Tensor

from loadtests.kernel_figures import KernelTime, copies_of, error_of, graph_seconds
from server.kernels.attention import Heads, PagedPlan
from server.model.config import ModelConfig

BLOCK = 16
CONTEXTS = (256, 4096)


Cache = tuple[Tensor, Tensor]


@torch.inference_mode()
def measure_attention(config: ModelConfig, tokens: list[int], bandwidth: float) -> list[KernelTime]:
    """Of one token of each of so many sequences."""
    heads = Heads(config.num_heads, config.num_kv_heads, config.head_dim)
    return [
        time
        for context in CONTEXTS
        for count in tokens
        for time in _measure(heads, context, count, bandwidth)
    ]


def _measure(heads: Heads, context: int, count: int, bandwidth: float) -> list[KernelTime]:
    """Ours also turns queries and keys, here by nothing, and writes the new keys and values."""
    from server.kernels.attention_cuda import attend

    num_bytes = 2 * count * context * heads.num_kv_heads * heads.dim * 2
    shape = (count * context, heads.num_kv_heads, heads.dim)
    caches = [(_random(*shape), _random(*shape)) for _ in range(copies_of(num_bytes))]
    pieces = [(in_one_piece(k, count), in_one_piece(v, count)) for k, v in caches]
    qkv = _random(count, (heads.num_heads + 2 * heads.num_kv_heads) * heads.dim)
    q = qkv.view(count, -1, heads.dim)[:, : heads.num_heads].unsqueeze(2)
    # Angles of zero: what is stored is what was given.
    cos, sin = torch.ones(context, heads.dim // 2), torch.zeros(context, heads.dim // 2)
    rotary = cos.bfloat16().cuda(), sin.bfloat16().cuda()
    positions = torch.full((count,), context - 1, dtype=torch.int32, device="cuda")
    plan = _plan(count, context)

    def ours(i: int) -> Tensor:
        return attend(qkv, heads, None, rotary, positions, *caches[i], plan)

    def torchs(i: int) -> Tensor:
        return attend_in_one_piece(q, pieces[i])

    # The first call writes the newest keys and values, which the others then see.
    ours(0)
    exact = attend_in_one_piece(q.double(), (pieces[0][0].double(), pieces[0][1].double()))
    return [
        KernelTime(
            what=f"attention {context}",
            tokens=count,
            name=name,
            microseconds=graph_seconds(work, len(caches)) * 1e6,
            floor=num_bytes / bandwidth * 1e6,
            error=error_of(work(0), exact),
        )
        for name, work in (("paged", ours), ("torch, in one piece", torchs))
    ]


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda").bfloat16()


def _plan(count: int, context: int) -> PagedPlan:
    def ints(values: range | list[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.int32, device="cuda")

    blocks = context // BLOCK
    starts, block_at = ints(range(count + 1)), ints([i * blocks for i in range(count)])
    return PagedPlan(starts, ints([context] * count), block_at, ints(range(count * blocks)), BLOCK, 1)


def in_one_piece(cache: Tensor, count: int) -> Tensor:
    """[cells, kv heads, dim] -> [count, kv heads, context, dim], a view."""
    return cache.view(count, -1, *cache.shape[1:]).transpose(1, 2)


def attend_in_one_piece(q: Tensor, cache: Cache) -> Tensor:
    """[count, heads * dim]."""
    k, v = cache
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).flatten(1)
