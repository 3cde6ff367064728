"""Which kernel multiplies by an NF4 weight, how it is specialised, and on how many blocks."""

from dataclasses import dataclass
from functools import cache

import torch

from server.kernels import nvrtc
from server.kernels.nf4 import BLOCK
from server.kernels.nf4_layout import TILE

TABLE_BYTES = 65536


@dataclass(frozen=True)
class Plan:
    """Which kernel multiplies, how it is specialised, and on how many blocks.

    tokens: padded to what the kernel is made for. slots: units of weights on their way, a warp.
    columns: blocks that share the rows; splits: blocks that share K. tiles: of 16 rows, of a block.
    pairs: tiles of gate and of up stand in turns.
    """

    name: str
    tokens: int
    warps: int
    slots: int
    splits: int
    columns: int
    tiles: int
    pairs: bool

    @property
    def sums(self) -> int:
        """Floats that the blocks leave for each other."""
        return self.columns * self.splits * self.tiles * TILE * self.tokens

    def kernel(self) -> nvrtc.Kernel:
        return _mma_kernel(self) if self.name == "nf4_mma" else _wgmma_kernel(self)


@cache
def most_rows() -> int:
    """Tokens of one launch. Only the ninth generation has wgmma."""
    return 64 if nvrtc.capability()[0] == 9 else 16


@cache
def plan_of(tokens: int, rows: int, width: int, pairs: bool) -> Plan:
    """The fastest known way for this shape."""
    assert tokens <= most_rows()
    return (_mma_plan if tokens <= 16 else _wgmma_plan)(tokens, rows, width, pairs)


def _mma_plan(tokens: int, rows: int, width: int, pairs: bool) -> Plan:
    """A block an SM. Blocks share K where they have few tiles; else each goes over all of K itself."""
    padded, groups, tiles = 8 if tokens <= 8 else 16, width // BLOCK, rows // TILE
    most = 16 if tokens <= 8 else 8
    while True:
        # As many warps as divide K evenly, else all.
        warps = next((w for w in (most, most - 2, most - 1, most - 4) if groups % (w * 4) == 0), most)
        splits = min(8, -(-groups // (warps * 4))) if tiles < 8 * num_processors() else 1
        turns = tiles // 2 if pairs else tiles
        columns = min(num_processors() // splits, turns)
        owned = -(-turns // columns) * (tiles // turns)
        plan = Plan("nf4_mma", padded, warps, 8, splits, columns, owned, pairs)
        # Smaller cards have less shared memory.
        if most <= 6 or _mma_bytes(plan) <= nvrtc.most_shared_bytes():
            return plan
        most -= 2


def _wgmma_plan(tokens: int, rows: int, width: int, pairs: bool) -> Plan:
    """The rows of a block, and the blocks that share K, by which a processor looks up the fewest quads."""
    quads, padded = -(-width // (4 * BLOCK)), -(-tokens // 8) * 8

    def columns(groups: int) -> int:
        return -(-rows // (64 * groups))

    ways = [(g, s) for g in (4, 3, 2) for s in range(1, 9) if columns(g) * s <= num_processors()]
    # Of equals, sums of many tokens are best left by few blocks.
    groups, splits = min(
        ways, key=lambda way: (-(-quads // way[1]) * way[0], way[1] if padded > 32 else 0), default=(4, 1)
    )
    return Plan("nf4_wgmma", padded, 4 * groups, 4, splits, columns(groups), 4 * groups, pairs)


@cache
def num_processors() -> int:
    return torch.cuda.get_device_properties().multi_processor_count


def _ring_bytes(plan: Plan) -> int:
    return plan.warps * (plan.slots * 512 + plan.slots // 4 * 128)


def _mma_bytes(plan: Plan) -> int:
    partials, stage = 2 * plan.warps * 2 * plan.tokens * 20 * 4, plan.warps * plan.tokens * 256 * 2
    return TABLE_BYTES + max(partials, stage) + 3 * plan.tokens * 8 + plan.tiles * plan.tokens * 16 * 4


@cache
def _mma_kernel(plan: Plan) -> nvrtc.Kernel:
    macros = {
        "TOKENS": plan.tokens,
        "WARPS": plan.warps,
        "SLOTS": plan.slots,
        "SPLITS": plan.splits,
        "PAIRS": int(plan.pairs),
    }
    return nvrtc.load("nf4_mma", macros, plan.warps * 32, _mma_bytes(plan), overlaps=True)


@cache
def _wgmma_kernel(plan: Plan) -> nvrtc.Kernel:
    groups = plan.warps // 4
    stages = plan.slots // 4 + 2
    x, sums = stages * 4 * plan.tokens * 128, plan.tokens * (groups * 64 + 4) * 4
    shared = TABLE_BYTES + max(x + _ring_bytes(plan), sums) + 3 * plan.tokens * 8
    macros = {
        "TOKENS": plan.tokens,
        "GROUPS": groups,
        "SLOTS": plan.slots,
        "STAGES": stages,
        "SPLITS": plan.splits,
        "PAIRS": int(plan.pairs),
    }
    prelude = _wgmma_source(plan.tokens)
    return nvrtc.load("nf4_wgmma", macros, groups * 128, shared, overlaps=True, prelude=prelude)


@cache
def dequantize_kernel(pairs: bool) -> nvrtc.Kernel:
    return nvrtc.load("nf4_dequantize", {"PAIRS": int(pairs)}, 256)


def _wgmma_source(tokens: int) -> str:
    """wgmma m64 n`tokens` k16: its name and its operands spell the shape."""
    count, shape = tokens // 2, f"m64n{tokens}k16.f32.bf16.bf16"
    sums = ",".join(f"%{i}" for i in range(count))
    operands = ",".join(f'"+f"(d[{i}])' for i in range(count))
    a = ",".join(f"%{count + i}" for i in range(4))
    return f"""
DEVICE void wgmma(float (&d)[{count}], const u32* a, u64 descriptor) {{
  asm volatile(
      "wgmma.mma_async.sync.aligned.{shape} {{{sums}}}, {{{a}}}, %{count + 4}, 1, 1, 1, 0;"
      : {operands} : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor));
}}"""
