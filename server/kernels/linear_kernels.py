"""The kernels that multiply by a tiled weight, as plans ask for them."""

from functools import cache

from server.kernels import nvrtc
from server.kernels.formats import Format
from server.kernels.plans import Plan


def _headers(form: Format) -> tuple[str, ...]:
    return "weights", f"format_{form.name}"


def _macros(plan: Plan) -> dict[str, int]:
    common = {"TOKENS": plan.tokens, "SLOTS": plan.slots, "SPLITS": plan.splits, "PAIRS": int(plan.pairs)}
    ring = plan.x_ring
    if ring is None:
        return {**common, "WARPS": plan.warps}
    x = {"STAGES": ring.stages, "BLOCKS": ring.blocks}
    return {**common, **x, "GROUPS": plan.warps // 4, "TURNS": int(plan.turns)}


@cache
def linear_kernel(plan: Plan) -> nvrtc.Kernel:
    return nvrtc.load(
        plan.name,
        _macros(plan),
        plan.warps * 32,
        plan.shared_bytes,
        overlaps=True,
        headers=(*_headers(plan.format), "epilogue"),
        prelude="" if plan.x_ring is None else _wgmma_source(plan.tokens),
    )


@cache
def dequantize_kernel(form: Format, pairs: bool) -> nvrtc.Kernel:
    return nvrtc.load("dequantize", {"PAIRS": int(pairs)}, 256, headers=_headers(form))


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
