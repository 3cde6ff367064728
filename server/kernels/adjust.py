"""What some adapters do to a linear's output or input: y = y * gain + bias, column by column. Plain torch."""

from dataclasses import dataclass

from torch import Tensor

from server.kernels.lora import Part, Segment


@dataclass(frozen=True)
class PartChange:
    """Of one part of a linear, float32: gain, bias [width] of its output; input_gain [in] of its input."""

    part: Part
    gain: Tensor | None = None
    bias: Tensor | None = None
    input_gain: Tensor | None = None


@dataclass(frozen=True)
class RowChanges:
    """The changes of the adapter whose tokens are the segment's rows."""

    segment: Segment
    changes: tuple[PartChange, ...]


def adjust(y: Tensor, members: list[RowChanges]) -> None:
    """y [tokens, out] in place; computed in float32 and rounded once, other rows and columns untouched."""
    for member in members:
        rows = y[member.segment.start : member.segment.end]
        for change in member.changes:
            columns = rows[:, change.part.column : change.part.column + change.part.width]
            _adjust(columns, change.gain, change.bias)


def scale_inputs(x: Tensor, members: list[RowChanges]) -> None:
    """x [tokens, in] of a linear of one part, in place."""
    for member in members:
        for change in member.changes:
            _adjust(x[member.segment.start : member.segment.end], change.input_gain, None)


def _adjust(values: Tensor, gain: Tensor | None, bias: Tensor | None) -> None:
    if gain is None and bias is None:
        return
    exact = values.float()
    if gain is not None:
        exact = exact * gain
    if bias is not None:
        exact = exact + bias
    values.copy_(exact)
