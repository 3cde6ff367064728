"""Watches every tensor that torch makes: bytes alive now, and at most. CPU and make-believe tensors alike."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Storages(TorchDispatchMode):
    """While entered, `live` and `peak` are bytes of the storages that operators read or wrote.

    Views share a storage, which counts once. What `ignored` holds is not counted.
    """

    def __init__(self, ignored: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()
        # Held, so that no other storage can take their place in memory and with it their number.
        self._ignored = [tensor.untyped_storage() for tensor in ignored]
        self._known.update(storage._cdata for storage in self._ignored)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        number = storage._cdata
        if number not in self._known:
            size = storage.nbytes()
            self._known.add(number)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, number, size).atexit = False

    def _gone(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.live -= size
