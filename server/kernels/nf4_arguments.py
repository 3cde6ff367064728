"""The parameters of the NF4 kernels, field by field as in their sources."""

import ctypes

from torch import Tensor

from server.kernels.slot_update import SlotUpdate


class WeightArguments(ctypes.Structure):
    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("gain", ctypes.c_float),
    ]


class UpdateArguments(ctypes.Structure):
    """What the adapters add; all zero where there are none."""

    _fields_ = [
        ("t", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("tiles", ctypes.c_void_p),
        ("counters", ctypes.c_void_p),
        ("token_stride", ctypes.c_int),
        ("stride", ctypes.c_int),
        ("parts", ctypes.c_int),
        ("second", ctypes.c_int),
        ("third", ctypes.c_int),
        ("num_tiles", ctypes.c_int),
        ("shares", ctypes.c_int),
    ]

    @classmethod
    def of(cls, update: SlotUpdate | None, t: Tensor | None, counters: Tensor) -> "UpdateArguments":
        """t: [shares, tokens, parts, stride] float32. counters: two zeros."""
        if update is None or t is None:
            return cls()
        batch, columns = update.batch, (*(part.column for part in update.parts), 0, 0)
        assert batch.places is not None, "the step's adapters have not been located"
        # Places of 16 bytes; those of the layer's first part.
        first = (update.layer * 7 + update.parts[0].index) * 16
        return cls(
            t.data_ptr(),
            batch.places.data_ptr() + first,
            update.memory.weights.data_ptr(),
            batch.tiles.data_ptr(),
            counters.data_ptr(),
            update.slot_stride,
            t.shape[3],
            t.shape[2],
            columns[1],
            columns[2],
            batch.tiles.shape[0],
            t.shape[0],
        )


class ExchangeArguments(ctypes.Structure):
    _fields_ = [("sums", ctypes.c_void_p), ("counters", ctypes.c_void_p)]


class LinearArguments(ctypes.Structure):
    _fields_ = [
        ("weights", WeightArguments),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("update", UpdateArguments),
        ("exchange", ExchangeArguments),
        ("tokens", ctypes.c_int),
        ("rows", ctypes.c_int),
        ("width", ctypes.c_int),
        ("gated", ctypes.c_int),
    ]


class DequantizeArguments(ctypes.Structure):
    _fields_ = [
        ("out", ctypes.c_void_p),
        ("weights", WeightArguments),
        ("rows", ctypes.c_int),
        ("width", ctypes.c_int),
    ]
