"""Which kernel multiplies by a tiled weight, how it is specialised, and on how many blocks."""

from dataclasses import dataclass
from functools import cache

from server.kernels.device import Processors
from server.kernels.formats import Format
from server.kernels.layout import GROUP, TILE

# Tokens of one launch of linear_mma and of linear_wgmma; those up to which the latter adds updates.
MMA_TOKENS, WGMMA_TOKENS, WGMMA_UPDATES = 16, 256, 64


@dataclass(frozen=True)
class XRing:
    """How x comes to linear_wgmma: `stages` of `blocks` of 64 columns. groups: most warpgroups of a block."""

    groups: int
    stages: int
    blocks: int


# By tokens of a launch: its sums leave registers for so many warpgroups, its x shared memory for such stages.
X_RINGS = {64: XRing(4, 3, 4), 128: XRing(4, 6, 1), 192: XRing(3, 4, 1), 256: XRing(2, 4, 1)}
# Units of weights on their way, a warp of linear_wgmma.
WGMMA_SLOTS = 4
# By which a block's warpgroups take turns.
BARRIER_BYTES = 16
# The quads of a group that leaving a block's sums to others costs as much as, where they are many.
EXCHANGE = 2


@dataclass(frozen=True)
class Plan:
    """Which kernel multiplies, how it is specialised, and on how many blocks.

    tokens: padded to what the kernel is made for. slots: units of weights on their way, a warp.
    columns: blocks that share the rows; splits: blocks that share K. tiles: of 16 rows, of a block.
    pairs: tiles of gate and of up stand in turns.
    x_ring: linear_wgmma's. turns: whether its warpgroups make their fragments in turns.
    """

    name: str
    format: Format
    tokens: int
    warps: int
    slots: int
    splits: int
    columns: int
    tiles: int
    pairs: bool
    x_ring: XRing | None = None
    turns: bool = False

    @property
    def sums(self) -> int:
        """Floats that the blocks leave for each other."""
        return self.columns * self.splits * self.tiles * TILE * self.tokens

    @property
    def shared_bytes(self) -> int:
        return _mma_bytes(self) if self.name == "linear_mma" else _wgmma_bytes(self)


def fused_up_to(form: Format, on: Processors) -> int:
    """Tokens up to which the plans here, in pieces of `most_tokens`, beat a library's matmul over a copy."""
    return form.fused_up_to if on.has_wgmma else form.mma_up_to


def most_tokens(on: Processors) -> int:
    """Of one launch."""
    return WGMMA_TOKENS if on.has_wgmma else MMA_TOKENS


def most_updates(on: Processors) -> int:
    """Tokens of one launch that adds their adapters' updates."""
    return WGMMA_UPDATES if on.has_wgmma else MMA_TOKENS


@cache
def plan_of(form: Format, tokens: int, rows: int, width: int, pairs: bool, on: Processors) -> Plan:
    """The fastest known way for this shape."""
    assert tokens <= most_tokens(on)
    return (_mma_plan if tokens <= MMA_TOKENS else _wgmma_plan)(form, tokens, rows, width, pairs, on)


def plans_of(form: Format, rows: int, width: int, pairs: bool, on: Processors) -> list[Plan]:
    """All that launches of any number of tokens ask for; the smallest first."""
    most = most_tokens(on)
    sizes = sorted({_padded(tokens) for tokens in range(1, most + 1)})
    return [plan_of(form, tokens, rows, width, pairs, on) for tokens in sizes]


def _mma_plan(form: Format, tokens: int, rows: int, width: int, pairs: bool, on: Processors) -> Plan:
    """A block an SM. Blocks share K where they have few tiles; else each goes over all of K itself."""
    padded, groups, tiles = 8 if tokens <= 8 else 16, width // GROUP, rows // TILE
    most = 16 if tokens <= 8 else 8
    while True:
        # As many warps as divide K evenly, else all.
        fewer = (most, most - 2, most - 1, most - 4) if form.even_warps else (most,)
        warps = next((w for w in fewer if groups % (w * 4) == 0), most)
        splits = min(8, -(-groups // (warps * 4))) if tiles < 8 * on.count else 1
        turns = tiles // 2 if pairs else tiles
        columns = min(on.count // splits, turns)
        owned = -(-turns // columns) * (tiles // turns)
        slots = form.slots[padded // 8 - 1]
        plan = Plan("linear_mma", form, padded, warps, slots, splits, columns, owned, pairs)
        # Smaller cards have less shared memory.
        if most <= 6 or plan.shared_bytes <= on.shared_bytes:
            return plan
        most -= 2


def _wgmma_plan(form: Format, tokens: int, rows: int, width: int, pairs: bool, on: Processors) -> Plan:
    """The rows of a block, and the blocks that share K, by which a processor goes over the fewest quads."""
    quads, padded = -(-width // (4 * GROUP)), _padded(tokens)
    ring = next(ring for most, ring in X_RINGS.items() if padded <= most)

    def columns(groups: int) -> int:
        return -(-rows // (64 * groups))

    def cost(way: tuple[int, int]) -> tuple[int, int]:
        groups, splits = way
        turns = -(-columns(groups) // on.count)
        exchange = EXCHANGE if splits > 1 and padded > WGMMA_UPDATES else 0
        # Of equals, sums of many tokens are best left by few blocks.
        return turns * groups * (-(-quads // splits) + exchange), splits if padded > 32 else 0

    # Blocks that share K wait for each other: all must run at once.
    ways = [
        (groups, splits)
        for groups in range(ring.groups, 1, -1)
        for splits in range(1, 9)
        if splits == 1 or columns(groups) * splits <= on.count
    ]
    groups, splits = min(ways, key=cost)
    warps, turns = 4 * groups, form.turns[0] <= padded <= form.turns[1]
    return Plan(
        "linear_wgmma", form, padded, warps, WGMMA_SLOTS, splits, columns(groups), warps, pairs, ring, turns
    )


def _padded(tokens: int) -> int:
    """More tokens in larger steps: each size is a kernel to compile and to keep."""
    step = 8 if tokens <= 64 else 32 if tokens <= 128 else 64
    return -(-tokens // step) * step


def _mma_bytes(plan: Plan) -> int:
    partials, stage = 2 * plan.warps * 2 * plan.tokens * 20 * 4, plan.warps * plan.tokens * 256 * 2
    sums = plan.tiles * plan.tokens * 16 * 4
    return plan.format.table_bytes + max(partials, stage) + _places_bytes(plan) + sums


def _wgmma_bytes(plan: Plan) -> int:
    assert plan.x_ring is not None
    x = plan.x_ring.stages * plan.x_ring.blocks * plan.tokens * 128
    sums = plan.tokens * (plan.warps * TILE + 4) * 4
    weights = plan.warps * (plan.slots * plan.format.unit_bytes + plan.slots // 4 * plan.format.scale_bytes)
    return plan.format.table_bytes + max(x + weights, sums) + BARRIER_BYTES + _places_bytes(plan)


def _places_bytes(plan: Plan) -> int:
    """Where each token's B of up to three parts stands, and its rank."""
    return 3 * plan.tokens * 8 if plan.tokens <= WGMMA_UPDATES else 0
