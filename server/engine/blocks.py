"""The blocks of the KV cache: counted, shared by prefix, reused oldest first.

    free (oldest first)   held by sequences
    [ plain | cached ] <-> [ count >= 1 ]

A block that nobody holds keeps its content, and stays in the prefix cache, until it is allocated again.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence as Tokens

import numpy as np


class BlockPool:
    def __init__(self, num_blocks: int, block_size: int, prefix_cache: bool = True) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._prefix_cache = prefix_cache
        self._counts = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict((i, None) for i in range(num_blocks))
        self._hash_of: dict[int, bytes] = {}
        self._cached: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def match(self, hashes: list[bytes]) -> list[int]:
        """Takes hold of the longest run of cached blocks that starts the chain."""
        found = []
        for block_hash in hashes:
            block = self._cached.get(block_hash)
            if block is None:
                break
            self._hold(block)
            found.append(block)
        return found

    def count_cached(self, hashes: list[bytes]) -> tuple[int, int]:
        """(blocks that `match` would find, those of them that are free now)."""
        found = free = 0
        for block_hash in hashes:
            block = self._cached.get(block_hash)
            if block is None:
                break
            found += 1
            free += self._counts[block] == 0
        return found, free

    def allocate(self) -> int:
        """A block of one's own; what it cached is forgotten."""
        block, _ = self._free.popitem(last=False)
        self._forget(block)
        self._counts[block] = 1
        return block

    def release(self, blocks: list[int]) -> None:
        """Gives back one hold on each; the end of a prefix is reused before its beginning."""
        for block in reversed(blocks):
            self._counts[block] -= 1
            assert self._counts[block] >= 0, "a block was released more often than held"
            if self._counts[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)

    def publish(self, block: int, block_hash: bytes) -> None:
        """The block is full and computed: others with the same chain may share it."""
        if self._prefix_cache and block_hash not in self._cached and block not in self._hash_of:
            self._cached[block_hash] = block
            self._hash_of[block] = block_hash

    def check(self, holders: list[list[int]]) -> None:
        """The books balance: counts are what the holders hold, and nobody holds a free block."""
        counts = [0] * self.num_blocks
        for blocks in holders:
            for block in blocks:
                counts[block] += 1
        assert counts == self._counts, "block counts differ from what sequences hold"
        assert {b for b, c in enumerate(counts) if c == 0} == set(self._free), "free list differs from counts"
        assert all(self._cached[h] == b for b, h in self._hash_of.items()), (
            "prefix cache disagrees with itself"
        )
        assert len(self._cached) == len(self._hash_of), "prefix cache holds a block twice"

    def _hold(self, block: int) -> None:
        if self._counts[block] == 0:
            del self._free[block]
        self._counts[block] += 1

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of.pop(block, None)
        if block_hash is not None:
            del self._cached[block_hash]


def salt(secret: bytes, tenant: str, adapter: str) -> bytes:
    """Where a chain of block digests starts: nobody shares across tenants, adapters or processes."""
    parts = (secret, tenant.encode(), adapter.encode())
    return hashlib.sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest()


def extend_hashes(hashes: list[bytes], start: bytes, tokens: Tokens[int], block_size: int) -> None:
    """Appends the digests of full blocks that `hashes` lacks: H(parent, the block's tokens)."""
    for index in range(len(hashes), len(tokens) // block_size):
        ids = np.asarray(tokens[index * block_size : (index + 1) * block_size], dtype="<u4").tobytes()
        parent = hashes[-1] if hashes else start
        hashes.append(hashlib.sha256(parent + ids).digest())
