"""Chosen sequences -> the tensors of one step."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.engine.sequence import UNKNOWN, Chosen
from server.kernels.attention import AttentionPlan, Chunk, DecodeGroup
from server.kernels.lora import Segment
from server.model.linears import LoraStep
from server.model.packs import Packs
from server.model.step import Step

Ints = NDArray[np.int64]


def sort_by_slot(chosen: list[Chosen]) -> list[Chosen]:
    """Each adapter's tokens stand together; of one adapter, decodes before chunks."""
    return sorted(chosen, key=lambda c: (c.sequence.slot or 0, c.num_tokens > 1))


def build_step(
    chosen: list[Chosen],
    packs: Packs | None,
    block_size: int,
    device: torch.device,
    previous: Tensor | None = None,
) -> Step:
    """`chosen` as sorted by `sort_by_slot`; `packs` hold its adapters in the order of their slots.

    previous: the tokens of the step before, where some may be unknown to the host.
    """
    lengths = np.array([c.num_tokens for c in chosen])
    starts = np.concatenate(([0], np.cumsum(lengths)))
    cells = [_cells(c, block_size) for c in chosen]
    own = np.concatenate([seen[-c.num_tokens :] for c, seen in zip(chosen, cells, strict=True)])
    positions = np.concatenate(
        [np.arange(len(s) - c.num_tokens, len(s)) for c, s in zip(chosen, cells, strict=True)]
    )
    token_ids = np.concatenate([ids_of(c) for c in chosen])
    sampled = np.array(
        [end - 1 for c, end in zip(chosen, starts[1:], strict=True) if c.samples], dtype=np.int64
    )
    return Step(
        token_ids=_tensor(token_ids, device),
        positions=_tensor(positions, device),
        attention=AttentionPlan(
            cells=_tensor(own, device),
            decodes=_decodes(chosen, starts, cells, device),
            chunks=[
                _chunk(c, int(start), seen, device)
                for c, start, seen in zip(chosen, starts, cells, strict=False)
                if c.num_tokens > 1
            ],
        ),
        lora=None if packs is None else LoraStep(packs, _segments(chosen, starts)),
        sampled=_tensor(sampled, device),
        previous=previous if (token_ids < 0).any() else None,
    )


def ids_of(choice: Chosen) -> list[int]:
    """The tokens to compute; one that only the device knows is -(row + 1) of the step before."""
    sequence = choice.sequence
    ids = sequence.tokens[choice.start : choice.start + choice.num_tokens]
    if ids[-1] == UNKNOWN:
        ids[-1] = -(sequence.pending_row + 1)
    return ids


def _cells(choice: Chosen, block_size: int) -> Ints:
    """[context] cells of all tokens up to the end of this step's share."""
    end = choice.start + choice.num_tokens
    blocks = np.array(choice.sequence.blocks, dtype=np.int64)
    return (blocks[:, None] * block_size + np.arange(block_size)).reshape(-1)[:end]


def _decodes(
    chosen: list[Chosen], starts: Ints, cells: list[Ints], device: torch.device
) -> DecodeGroup | None:
    members = [i for i, c in enumerate(chosen) if c.num_tokens == 1]
    if not members:
        return None
    lengths = np.array([len(cells[i]) for i in members])
    # Padded with the sequence's own last cell: what stands in another's, NaN for one, is never read.
    padded = np.empty((len(members), lengths.max()), dtype=np.int64)
    for row, i in enumerate(members):
        padded[row, : lengths[row]] = cells[i]
        padded[row, lengths[row] :] = cells[i][-1]
    seen = np.arange(padded.shape[1]) < lengths[:, None]
    return DecodeGroup(
        rows=None if len(members) == len(chosen) else _tensor(starts[members], device),
        cells=_tensor(padded, device),
        seen=torch.from_numpy(seen[:, None, None, :]).to(device),
    )


def _chunk(choice: Chosen, start: int, seen: Ints, device: torch.device) -> Chunk:
    """Token i of the chunk sees everything before the chunk and the chunk up to itself."""
    first = len(seen) - choice.num_tokens
    mask = np.arange(len(seen)) <= np.arange(first, len(seen))[:, None]
    return Chunk(start, start + choice.num_tokens, _tensor(seen, device), torch.from_numpy(mask).to(device))


def _segments(chosen: list[Chosen], starts: Ints) -> list[Segment]:
    """One for each adapter; the base's tokens belong to none."""
    segments: list[Segment] = []
    slots: list[int] = []
    for choice, start, end in zip(chosen, starts, starts[1:], strict=False):
        slot = choice.sequence.slot or 0
        if slot and slots and slots[-1] == slot:
            segments[-1] = Segment(segments[-1].start, int(end), segments[-1].index)
        elif slot:
            segments.append(Segment(int(start), int(end), len(segments)))
            slots.append(slot)
    return segments


def _tensor(values: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)
