"""Logits -> the next token of each sequence.

The noise of a draw is a function of (seed, position, token id) alone, so the same request gives the
same tokens whatever else is in the batch, before and after preemption or replay.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from server.engine.messages import Logprobs, Sampling

MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Row:
    """One row of logits: whose it is, and what was said so far. `history` lists prompt and answer."""

    sequence_id: int
    sampling: Sampling
    history: list[int]
    num_prompt: int

    @property
    def num_answered(self) -> int:
        return len(self.history) - self.num_prompt


@dataclass(frozen=True)
class Sampled:
    """`token` is None where the logits are not finite."""

    token: int | None
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Likely:
    """Log probabilities of every row's distribution before penalties and temperature.

    chosen: [rows] of the token drawn. top, ids: [rows, k] of the likeliest ones, likeliest first.
    """

    chosen: Tensor
    top: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Drawn:
    """What a step has sampled, perhaps still on its way: nobody has waited for the device yet.

    tokens: [rows] int32, -1 where the logits are not finite. landed: set once all is in host memory.
    """

    rows: list[Row]
    tokens: Tensor
    likely: Likely | None = None
    landed: torch.cuda.Event | None = None

    def sent(self) -> "Drawn":
        """On its way to host memory, behind what the device has been given so far."""
        if not self.tokens.is_cuda:
            return self
        likely = self.likely
        if likely is not None:
            likely = Likely(_send(likely.chosen), _send(likely.top), _send(likely.ids))
        tokens = _send(self.tokens)
        landed = torch.cuda.Event()
        landed.record()
        return Drawn(self.rows, tokens, likely, landed)

    def fetch(self) -> dict[int, Sampled]:
        """By sequence id; waits for the device."""
        if self.landed is not None:
            self.landed.synchronize()
        return {
            row.sequence_id: Sampled(token if token >= 0 else None, self._logprobs(index))
            for index, (row, token) in enumerate(zip(self.rows, self.tokens.tolist(), strict=True))
        }

    def _logprobs(self, index: int) -> Logprobs | None:
        wanted = self.rows[index].sampling.logprobs
        if self.likely is None or wanted is None:
            return None
        ids, top = self.likely.ids[index, :wanted].tolist(), self.likely.top[index, :wanted].tolist()
        return Logprobs(float(self.likely.chosen[index]), list(zip(ids, top, strict=True)))


def _send(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def is_greedy(rows: list[Row]) -> bool:
    return all(row.sampling.is_greedy for row in rows)


def greedy(logits: Tensor) -> Tensor:
    """logits [rows, vocab] -> [rows] int32, -1 where they are not finite."""
    finite = torch.isfinite(logits.sum(dim=-1, dtype=torch.float32))
    return torch.where(finite, logits.argmax(dim=-1), -1).int()


def draw(logits: Tensor, rows: list[Row]) -> Drawn:
    """logits [rows, vocab], which stay as they are."""
    if is_greedy(rows):
        return Drawn(rows, greedy(logits))
    raw = logits.float()
    finite = torch.isfinite(raw.sum(dim=-1))
    logits = raw.clone()
    for index, row in enumerate(rows):
        _penalize(logits[index], row)
    tokens = logits.argmax(dim=-1)
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if drawn:
        tokens[drawn] = _draw(logits[drawn], [rows[index] for index in drawn])
    likely = _likely(raw, tokens, rows)
    return Drawn(rows, torch.where(finite, tokens, -1).int(), likely)


def _likely(raw: Tensor, tokens: Tensor, rows: list[Row]) -> Likely | None:
    wanted = [row.sampling.logprobs for row in rows if row.sampling.logprobs is not None]
    if not wanted:
        return None
    logprobs = raw.log_softmax(dim=-1)
    top, ids = logprobs.topk(min(max(wanted), raw.shape[1]), dim=-1)
    return Likely(logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1), top, ids)


def _penalize(logits: Tensor, row: Row) -> None:
    """One row [vocab] in place: penalties, and no end before min_new_tokens."""
    s = row.sampling
    if s.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(row.history)), device=logits.device)
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / s.repetition_penalty, values * s.repetition_penalty)
    if (s.presence_penalty or s.frequency_penalty) and row.num_answered:
        # Counted here and not on the device, which would have to be waited for.
        counts = Counter(row.history[row.num_prompt :])
        ids = torch.tensor(list(counts), device=logits.device)
        times = torch.tensor(list(counts.values()), device=logits.device)
        logits[ids] -= s.presence_penalty + s.frequency_penalty * times
    if row.num_answered < s.min_new_tokens and s.stop_token_ids:
        logits[list(s.stop_token_ids)] = -torch.inf


def _draw(logits: Tensor, rows: list[Row]) -> Tensor:
    """[rows] by the Gumbel-max trick over what temperature, top-k, top-p and min-p leave."""
    # From the maximum, and not colder than this: a quotient that overflows has no softmax.
    column = [max(row.sampling.temperature, MIN_TEMPERATURE) for row in rows]
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / torch.tensor(column, device=logits.device).unsqueeze(1)
    if any(_is_filtered(row.sampling) for row in rows):
        logits = _filter(logits, [row.sampling for row in rows])
    seeds = torch.tensor([_mix(row.sampling.seed, len(row.history)) for row in rows], device=logits.device)
    return (logits + _gumbel(seeds, logits.shape[1])).argmax(dim=-1)


def _is_filtered(s: Sampling) -> bool:
    return s.top_k > 0 or s.top_p < 1.0 or s.min_p > 0.0


def _filter(logits: Tensor, samplings: list[Sampling]) -> Tensor:
    """Drops unlikely tokens; each filter sees the probabilities that the ones before it left."""
    ordered, order = logits.sort(dim=-1, descending=True)
    rank = torch.arange(logits.shape[1], device=logits.device)
    top_k = logits.new_tensor([s.top_k or logits.shape[1] for s in samplings]).unsqueeze(1)
    ordered = ordered.masked_fill(rank >= top_k, -torch.inf)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    top_p = logits.new_tensor([s.top_p for s in samplings]).unsqueeze(1)
    ordered = ordered.masked_fill((before >= top_p) & (top_p < 1.0), -torch.inf)
    min_p = logits.new_tensor([s.min_p for s in samplings]).unsqueeze(1)
    ordered = ordered.masked_fill(probabilities < min_p * probabilities[:, :1], -torch.inf)
    return torch.empty_like(logits).scatter_(1, order, ordered)


def _gumbel(seeds: Tensor, vocab: int) -> Tensor:
    """[rows, vocab] of -log(-log(u)), u in (0, 1) from 24 bits of a hash of (seed, token id)."""
    ids = torch.arange(vocab, device=seeds.device)
    bits = _scramble(_scramble(seeds.unsqueeze(1) + ids * _GOLDEN))
    u = ((bits & 0xFFFFFF).double() + 0.5) / 0x1000000
    return -(-u.log()).log().float()


def _scramble(x: Tensor) -> Tensor:
    """A multiply-and-shift mixer of 32-bit values held in int64 (constants of lowbias32, C. Wellons)."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _mix(seed: int, position: int) -> int:
    """A 32-bit start value from a 64-bit seed and a position (splitmix64's finalizer)."""
    x = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return (x ^ (x >> 31)) & 0xFFFFFFFF


_GOLDEN = 0x9E3779B9
_MASK64 = (1 << 64) - 1
