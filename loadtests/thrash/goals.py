"""What is expected of one H200 with the 8b shape in bfloat16, rank 16 and room for eight adapters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtests.thrash.storms import Storm
from loadtests.thrash.uploads import UploadFigures
from loadtests.thrash.zipf import ZipfFigures

# adapters -> milliseconds.
FIRST_TOKEN = {8: 40.0, 16: 60.0, 64: 120.0}
INTER_TOKEN_GROWTH = 1.2
THROUGHPUT_KEPT = 0.9
# Seconds for 84 MB, and what those who run may feel of fifty of them.
SERVABLE, GROWTH_BESIDE_UPLOADS = 1.0, 1.1
ZIPF_KEPT = 0.95


@dataclass(frozen=True)
class Goal:
    """least: whether the bound is the least that will do, or the most."""

    figure: str
    value: float
    bound: float
    least: bool = False

    @property
    def is_met(self) -> bool:
        return self.value >= self.bound if self.least else self.value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.least else '<='} {self.bound:g}"


def judge(storms: Sequence[Storm], uploads: UploadFigures | None, zipf: ZipfFigures | None) -> list[Goal]:
    """Every goal for which there is a figure. Growth and shares are of the first storm's."""
    return [*_of_storms(storms), *_of_uploads(storms[0], uploads), *_of_zipf(zipf)]


def _of_storms(storms: Sequence[Storm]) -> Iterator[Goal]:
    first = storms[0]
    for each in storms:
        if each.adapters in FIRST_TOKEN:
            yield Goal(f"first token p50 of {each.adapters}, ms", each.first_p50, FIRST_TOKEN[each.adapters])
        if each is not first:
            growth = each.inter_p99 / first.inter_p99
            yield Goal(f"inter-token p99 of {each.adapters} over the first's", growth, INTER_TOKEN_GROWTH)
        if each.adapters == 2 * first.adapters:
            kept = each.throughput / first.throughput
            yield Goal(f"throughput of {each.adapters} over the first's", kept, THROUGHPUT_KEPT, least=True)


def _of_uploads(first: Storm, uploads: UploadFigures | None) -> Iterator[Goal]:
    if uploads is not None:
        yield Goal("upload to first token, s", uploads.servable, SERVABLE)
        growth = uploads.beside.inter_p99 / first.inter_p99
        yield Goal("inter-token p99 beside uploads over without", growth, GROWTH_BESIDE_UPLOADS)


def _of_zipf(zipf: ZipfFigures | None) -> Iterator[Goal]:
    if zipf is not None:
        yield Goal(f"throughput over {zipf.adapters} adapters over 5", zipf.kept, ZIPF_KEPT, least=True)
