"""Device memory for adapters: one tensor, cut into extents as adapters come and go."""

from bisect import insort


class Extents:
    """The free stretches of [0, size), in units."""

    def __init__(self, size: int) -> None:
        self.size = size
        # (start, length), by start; neighbours are merged.
        self._free = [(0, size)] if size else []

    @property
    def num_free(self) -> int:
        return sum(length for _, length in self._free)

    def copy(self) -> "Extents":
        copy = Extents(self.size)
        copy._free = list(self._free)
        return copy

    def take(self, pieces: list[int]) -> list[int] | None:
        """Where each piece begins: in one stretch if one is long enough, else apart; None: no room."""
        start = self._take_one(sum(pieces))
        if start is not None:
            return [start + sum(pieces[:i]) for i in range(len(pieces))]
        starts: list[int] = []
        for piece in pieces:
            start = self._take_one(piece)
            if start is None:
                for taken, length in zip(starts, pieces, strict=False):
                    self.give_back(taken, length)
                return None
            starts.append(start)
        return starts

    def give_back(self, start: int, length: int) -> None:
        insort(self._free, (start, length))
        merged: list[tuple[int, int]] = []
        for begin, size in self._free:
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((begin, size))
        self._free = merged

    def check(self, taken: list[tuple[int, int]]) -> None:
        """Free and taken stretches fill the memory, and none overlap."""
        at = 0
        for start, length in sorted(self._free + [each for each in taken if each[1]]):
            assert start == at, "extents of adapter memory overlap or are lost"
            at += length
        assert at == self.size, "extents of adapter memory are lost"

    def _take_one(self, length: int) -> int | None:
        """From the smallest stretch that holds it."""
        fitting = [stretch for stretch in self._free if stretch[1] >= length]
        if not fitting:
            return None
        start, size = min(fitting, key=lambda stretch: stretch[1])
        self._free.remove((start, size))
        if size > length:
            insort(self._free, (start + length, size - length))
        return start
