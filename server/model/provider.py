"""The base's weights and biases by the checkpoint's names, as the server serves them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from adapters.shapes import EMBEDDING, HEAD
from server.model.decoder import Decoder
from server.model.parts import FUSED, linear_parts


class ServedWeights:
    """Of a decoder, wherever it stands and however it holds them; for any thread but the one that steps.

    Whatever is asked for is computed anew, on a stream of its own, and handed out in host memory.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._parts = linear_parts(decoder.config)
        self._stream = torch.cuda.Stream(decoder.embedding.device) if decoder.embedding.is_cuda else None

    @torch.inference_mode()
    def weight(self, name: str) -> Tensor:
        """[out, in] float32 of a linear, the embedding or the head."""
        with self._aside():
            return self._weight(name).float().cpu()

    @torch.inference_mode()
    def bias(self, name: str) -> Tensor:
        """[out] float32 of a linear that has one."""
        layer, linear, index = _place(name)
        held = getattr(self._decoder.layers[layer], linear).bias
        with self._aside():
            return self._rows(held, linear, index).float().cpu()

    def _weight(self, name: str) -> Tensor:
        dtype = self._decoder.embedding.dtype
        if name == EMBEDDING:
            return self._decoder.embedding
        if name == HEAD:
            return self._decoder.lm_head.weight.dequantize(dtype)
        layer, linear, index = _place(name)
        whole = getattr(self._decoder.layers[layer], linear).weight.dequantize(dtype)
        return self._rows(whole, linear, index)

    def _rows(self, whole: Tensor, linear: str, index: int) -> Tensor:
        part = self._parts[linear][index]
        return whole[part.column : part.column + part.width]

    def _aside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _place(name: str) -> tuple[int, str, int]:
    """(layer, decoder's linear, its part) of a checkpoint's linear."""
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    linear = next(linear for linear, parts in FUSED.items() if part in parts)
    return int(layer), linear, FUSED[linear].index(part)
