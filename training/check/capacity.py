"""Whether an adapter is large enough for what the rows have to teach.

An adapter holds about two bits a parameter. What the rows hold is at most what a general compressor makes of
the texts in the loss; the base knows much of it already, so the rank that follows is a ceiling.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.check.report import CheckReport

BITS_A_PARAMETER = 2.0
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Compressing more than this takes seconds; the rest is taken to be alike.
SAMPLE_BYTES = 4 << 20
AMPLE = 16


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bits of the rows and of the adapter; `rank` is the run's, `enough` the least that holds the rows."""

    row_bits: int
    adapter_bits: int
    rank: int
    enough: int

    def facts(self) -> list[tuple[str, str]]:
        return [
            ("bits in the loss, at most", f"{self.row_bits:,}"),
            ("bits that the adapter holds", f"{self.adapter_bits:,} at rank {self.rank}"),
            ("rank that is enough", f"{self.enough}"),
        ]


def row_bits(texts: Sequence[str], loss_tokens: int, vocabulary: int) -> int:
    """Bits of different `texts`: compressed, and never more than a free choice of every token."""
    whole = "\n".join(dict.fromkeys(texts)).encode()
    sample = whole[:SAMPLE_BYTES]
    packed = len(lzma.compress(sample, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}]))
    compressed = 8 * packed * len(whole) / max(1, len(sample))
    return round(min(compressed, loss_tokens * math.log2(vocabulary)))


def capacity(bits: int, rank: int, pair_width: int) -> Capacity:
    """For LoRA pairs of `rank` on linears whose in and out features sum up to `pair_width`."""
    a_rank = BITS_A_PARAMETER * pair_width
    enough = next((rank for rank in RANKS if rank * a_rank >= bits), RANKS[-1])
    return Capacity(bits, round(rank * a_rank), rank, enough)


def find_capacity(found: Capacity, report: CheckReport) -> None:
    """Ranks that are too small for the rows, or far larger than they need."""
    if found.row_bits > found.adapter_bits:
        text = (
            f"the rows hold up to {found.row_bits:,} bits and rank {found.rank} about {found.adapter_bits:,}"
        )
        report.add("warning", "capacity", [f"{text}: try lora.rank = {found.enough}"])
    elif found.rank > AMPLE * found.enough:
        text = f"rank {found.enough} would hold these rows as well as {found.rank}, in less memory"
        report.add("note", "capacity", [text])
