"""How the linears' kernels take each kind of quantized weight."""

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Format:
    """What the kernels are compiled for, with cuda/format_<name>.cuh.

    unit_bytes: codes of 16 rows and 64 columns. scale_bytes: scales of four such units.
    table_bytes: of shared memory, by which codes are looked up.
    slots: units that a warp of linear_mma has on their way for 8 and for 16 tokens, by its registers.
    even_warps: whether fewer warps are faster where they divide K evenly (measured).
    turns: from how many tokens of a launch to how many its warpgroups make fragments in turns (measured).
    fused_up_to: tokens up to which kernels over the codes are faster than a library's matmul over a copy of
    the weight (`lorikeet loadtest kernels` measures it).
    mma_up_to: tokens up to which linear_mma alone, in pieces, reads no more than a copy of the weight takes
    to make and to read.
    """

    name: str
    unit_bytes: int
    scale_bytes: int
    table_bytes: int
    slots: tuple[int, int]
    even_warps: bool
    turns: tuple[int, int]
    fused_up_to: int
    mma_up_to: int


NF4 = Format("nf4", 512, 128, 65536, (8, 8), True, (1, 128), 256, 128)
INT8 = Format("int8", 1024, 0, 0, (4, 8), False, (65, 256), 256, 80)
