"""The prefix cache as sequences see it: which of their blocks it holds, and which they add."""

import os

from server.engine.blocks import BlockPool, extend_hashes, salt
from server.engine.sequence import Sequence


class Prefixes:
    """Chains of block digests, each under the salt of its sequence's tenant and adapter."""

    def __init__(self, blocks: BlockPool, secret: bytes | None = None) -> None:
        self._blocks = blocks
        self._secret = secret or os.urandom(32)

    def fits(self, sequence: Sequence) -> bool:
        """Whether all its tokens and one more find blocks, with what the cache holds of them."""
        found, found_free = self._blocks.count_cached(self._reusable(sequence))
        needed = self._blocks.blocks_for(len(sequence.tokens) + 1) - found + found_free
        return needed <= self._blocks.num_free

    def match(self, sequence: Sequence) -> list[int]:
        """Takes hold of the blocks that the cache has of it."""
        return self._blocks.match(self._reusable(sequence))

    def publish(self, sequence: Sequence, start: int, end: int) -> None:
        """The blocks that tokens [start, end) filled enter the cache."""
        size = self._blocks.block_size
        filled = range(start // size, end // size)
        # A sequence that was sent back in the meantime holds other blocks now, or none.
        if filled and sequence.computed >= end:
            hashes = self._hashes(sequence, end)
            for index in filled:
                self._blocks.publish(sequence.blocks[index], hashes[index])

    def _reusable(self, sequence: Sequence) -> list[bytes]:
        """Digests of the blocks that may come from the cache: the last token is always computed."""
        return self._hashes(sequence, len(sequence.tokens) - 1)

    def _hashes(self, sequence: Sequence, num_tokens: int) -> list[bytes]:
        """Digests of the full blocks among the first `num_tokens`."""
        size, known = self._blocks.block_size, sequence.block_hashes
        if len(known) < num_tokens // size:
            start = salt(self._secret, sequence.request.tenant, sequence.request.adapter)
            extend_hashes(known, start, sequence.tokens[:num_tokens], size)
        return known[: num_tokens // size]
